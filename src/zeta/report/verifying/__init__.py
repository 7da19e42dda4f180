"""Compute values again and compare them bit by bit: of a model (``verification``), or of a folder (``folders``)."""
