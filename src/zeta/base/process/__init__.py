"""The state of the process: modes and threads around a call, exchanged code, forks, the search for garbage."""
