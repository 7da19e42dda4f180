"""The command line, and the modules that only it uses."""
