"""Third stage: from an entry of a plan to values.

In: a law or a program, a key and a region. Out: the values of that region.
"""
