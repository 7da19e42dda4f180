"""``zeta adapt``: the command, its task, and the configuration that it changes."""
