"""Exact and mergeable metrics of anomaly maps."""
