"""DRAEM's anomalies, made in batches by jnp and one by one by NumPy and OpenCV.

Reading and resizing textures is left out of both. A loader with a process for each core
is at best as many times faster than one: `ratio_of_all_cores`.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.synthesis.rgbd import Corruption, corrupt
from experiments.benchmarks.baselines.comparison import Call, baseline, side_by_side

SIZE = (256, 16, 64)  # side, images, textures
SMALL = (32, 2, 2)
DRAEM = Corruption(p_cut_out=0.0)


def compare(small: bool, rounds: int) -> dict:
    """Returns the comparison, seconds for all images of a batch."""
    side, count, textures = SMALL if small else SIZE
    rng = np.random.default_rng(0)
    images = rng.random((count, side, side, 3), np.float32)
    bank = rng.integers(0, 256, (textures, side, side, 3), np.uint8)
    calls = {"ours": ours(images, bank), "opencv": baseline(opencv, images, bank)}
    results = side_by_side(calls, rounds)
    ratio = results["opencv"]["ratio_to_ours"]
    return {
        "side": side,
        "images": count,
        "implementations": results,
        "ratio_of_all_cores": None if ratio is None else ratio / os.cpu_count(),
        "images_per_second": count / results["ours"]["seconds_median"],
    }


def ours(images: np.ndarray, bank: np.ndarray) -> Call:
    """Returns our call, of which each round draws other anomalies."""
    images, bank = jax.device_put((images, bank))
    foreground = jnp.ones((*images.shape[:3], 1))

    @jax.jit
    def make(key):
        keys = jax.random.split(key, len(images))
        made = corrupt(keys, {"rgb": images}, foreground, bank, DRAEM)
        return made.altered["rgb"], made.mask

    turn = iter(range(2**31))
    return lambda: make(jax.random.key(next(turn)))


def opencv(images: np.ndarray, bank: np.ndarray) -> Call:
    """Returns the baseline's call. ImportError where there is no OpenCV."""
    from experiments.benchmarks.baselines import opencv_synthesis

    rng = np.random.default_rng(0)

    def call():
        made = [
            opencv_synthesis.corrupt(rng, image, bank[rng.integers(len(bank))])
            for image in images
        ]
        return [np.stack(part) for part in zip(*made, strict=True)]

    return call
