"""Fifth stage: what was done and what it looks like.

In: a plan, and what was written. Out: reports, verifications, differences, digests, costs.
"""
