"""A forward and a backward pass under observation; the model is left as it was."""
