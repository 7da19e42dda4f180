"""Fourth stage: write values to tensors and files. The only stage that changes its arguments.

In: a plan, a seed, and a model or a folder. Out: what was written.
"""
