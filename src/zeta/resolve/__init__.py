"""Second stage: make a plan from rules and a model.

In: rules, a recipe or a function, and a model. Out: a plan, in which every entry has all its numbers.
"""
