"""The data of a check: results, evidence, thresholds and the catalogue of rules."""
