"""Helpers for every stage: dtypes, texts, readers of files, modules, the state of the process. Imports no stage."""
