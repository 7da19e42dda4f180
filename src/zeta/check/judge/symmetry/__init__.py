"""Z3: units, layers and positions that are equal: from the evidence to findings."""
