"""The scalar that gradients are taken of, and the calls of loss functions: collected, and measured after the pass."""
