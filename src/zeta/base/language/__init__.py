"""The closed language of programs: its operations, their checks and layouts, and how one of them is computed."""
