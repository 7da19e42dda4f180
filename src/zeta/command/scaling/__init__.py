"""``zeta scale``: its options, and its task."""
