"""Spaces for studies, found by name; form: `ad3d_jax.experiment.study.space`."""
