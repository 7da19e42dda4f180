"""Fourth stage: from values to tensors and files; the only one that mutates.

In: a plan, a seed, and a model or a folder. Out: what was written.
"""
