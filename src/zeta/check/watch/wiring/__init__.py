"""Watch where tensors come from and what they depend on."""
