"""Normals and FPFH against Open3D's."""

import jax
import numpy as np

from ad3d_jax.ops.fpfh import fpfh
from data_pipelines import geometry
from experiments.benchmarks.baselines.comparison import (
    Call,
    baseline,
    normal,
    side_by_side,
)

SIZES = ((1, 224), (4, 224))  # clouds, side
SMALL = ((1, 24),)


def compare(small: bool, rounds: int) -> list[dict]:
    """Returns the timings of FPFH with its normals for each size of batch."""
    return [_fpfh(*size, rounds=rounds) for size in (SMALL if small else SIZES)]


def _fpfh(clouds: int, side: int, rounds: int) -> dict:
    """Returns the timings on a batch of wavy surfaces 0.4 m away, with noise."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    noise = normal(np.empty((clouds, side, side), np.float32))
    z = 0.4 + 0.01 * np.sin(20 * x) * np.cos(20 * y) + 2e-4 * noise
    xyz = np.stack([x * z / 2, y * z / 2, z], axis=-1).astype(np.float32)
    placed, valid = jax.device_put((xyz, np.ones((clouds, side, side, 1), bool)))
    describe = jax.jit(fpfh)
    calls = {
        "ours": lambda: describe(placed, valid),
        "open3d": baseline(open3d_fpfh, xyz),
    }
    results = side_by_side(calls, rounds)
    seconds = results["ours"]["seconds_median"]
    return {
        "clouds": clouds,
        "side": side,
        "implementations": results,
        "clouds_per_second": clouds / seconds,
    }


def open3d_fpfh(clouds: np.ndarray) -> Call:
    """Returns Open3D's normals and FPFH of each cloud. DatasetError without it."""
    geometry.open3d()
    flat = clouds.reshape(len(clouds), -1, 3)
    return lambda: [geometry.normals_and_fpfh(points) for points in flat]
