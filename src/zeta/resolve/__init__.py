"""Second stage: from rules and a model to a plan.

In: what is wanted, and a model. Out: a plan, each entry with every number solved.
"""
