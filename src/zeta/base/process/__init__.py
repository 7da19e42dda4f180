"""The state of the process: modes and threads around a call, replaced code, forks, garbage collection."""
