"""Frozen feature extractors and the loading of pretrained weights."""
