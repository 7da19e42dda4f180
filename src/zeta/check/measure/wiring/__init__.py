"""Measure what is connected to what: parameters to optimizer and loss, samples to each other."""
