"""Numbers about a model that the passes alone do not give."""
