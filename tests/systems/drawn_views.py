"""Samples of CPMF drawn from a seed: no cloud at all, but of every shape and dtype."""

from typing import NamedTuple

import numpy as np

SIDE, VIEWS = 64, 3


class Drawn(NamedTuple):
    """A sample, and histograms in the place of FPFH."""

    xyz: np.ndarray  # [H,W,3] float32; a coordinate is 0 where nothing was measured
    views: np.ndarray  # [V,S,S,1] uint8
    positions: np.ndarray  # [V,H,W,2] int16
    histograms: np.ndarray  # [H,W,33] float32


def drawn_sample(seed: int) -> Drawn:
    """Returns one sample of SIDE pixels."""
    random = np.random.default_rng(seed)
    xyz = random.uniform(0.1, 0.2, (SIDE, SIDE, 3)).astype(np.float32)
    xyz[random.random((SIDE, SIDE)) < 0.6] = 0
    xyz[5, 7:9, 0] = 0  # measured, but on an axis
    views = random.integers(0, 256, (VIEWS, SIDE, SIDE, 1), np.uint8)
    positions = random.integers(0, SIDE, (VIEWS, SIDE, SIDE, 2), np.int16)
    histograms = random.random((SIDE, SIDE, 33), np.float32) * np.float32(200)
    return Drawn(xyz, views, positions, histograms)
