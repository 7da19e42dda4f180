"""Third stage: compute the values of an entry of a plan.

In: an initializer (a distribution or a program), a key and a region. Out: the values of that region.
"""
