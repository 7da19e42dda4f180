"""Fifth stage: describe what was written, and compare it with the plan.

In: a plan, and what was written. Out: reports, verifications, differences, digests, costs.
"""
