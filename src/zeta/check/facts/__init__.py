"""What a check works with: results, evidence, thresholds and the catalogue of rules."""
