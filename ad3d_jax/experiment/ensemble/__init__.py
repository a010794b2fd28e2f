"""Several detectors of a class as one, combined through their p-values."""
