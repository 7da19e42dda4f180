"""The calls of loss functions: collected during the pass, and measured after it."""
