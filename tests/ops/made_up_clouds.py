"""Small organised clouds, in metres, for tests of points and descriptors."""

import numpy as np


def bumpy_cloud(seed: int, height: int, width: int) -> np.ndarray:
    """A cloud [H,W,3] of points 1 mm apart, in metres, without equal distances."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width] + random.uniform(
        -0.3, 0.3, (2, height, width)
    )
    bump = 3e-3 * np.sin(row / 4) * np.cos(column / 3)
    depth = 0.6 + bump + 2e-4 * random.standard_normal((height, width))
    return np.stack([1e-3 * column + 0.01, 1e-3 * row + 0.02, depth], -1).astype("f4")


def holes(seed: int, height: int, width: int) -> np.ndarray:
    """A mask [H,W] with a fifth of the points missing."""
    return np.random.default_rng(seed).random((height, width)) > 0.2
