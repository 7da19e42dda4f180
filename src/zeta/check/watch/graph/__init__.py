"""What autograd's graph and the calls that build it say: uses of parameters, paths between layers, heads."""
