"""The stream of random numbers: keys and words, regions of tensors, and the kernels that fill regions."""
