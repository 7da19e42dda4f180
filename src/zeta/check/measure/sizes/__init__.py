"""Models of several widths and depths: what is measured in them, and how it grows."""
