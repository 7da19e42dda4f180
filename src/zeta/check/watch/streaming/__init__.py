"""Run a model whose parameters are on meta: each is computed when an operation takes it, and freed after."""
