"""The stream of random numbers: keys and words, the regions that are asked for, and the kernels that fill them."""
