"""Z6 and Z7: the loss, its target, and the first step: from the evidence to findings."""
