"""The report of a run: one self-contained page, and images and clouds of its maps."""

from ad3d_jax.report.cloud import write_ply
from ad3d_jax.report.colors import heat_map, overlay
from ad3d_jax.report.page import write_report

__all__ = ["heat_map", "overlay", "write_ply", "write_report"]
