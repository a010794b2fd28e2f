"""Makers of artificial anomalies: keys in, corrupted samples and masks out."""
