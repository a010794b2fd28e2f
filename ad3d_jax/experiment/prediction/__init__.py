"""Prediction of a folder: what is due, its rows, its images, and large pictures."""
