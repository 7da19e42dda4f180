"""Observes a forward and a backward pass, and restores the model afterwards."""
