"""Command lines over `ad3d_jax.experiment`, configurations, spaces and benchmarks."""
