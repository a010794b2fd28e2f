"""Points as a camera sees them: unmeasured ones set to zero, impossible ones refused.

They are judged by their values. What no camera can have measured and is one value
throughout marks unmeasured points; anything else that cannot be right is an error.
"""

from pathlib import Path

import numpy as np

from data_pipelines.errors import CorruptSampleError

MAX_METRES = 10.0
MIN_METRES = 1e-3  # of the median distance
MAX_BEHIND = 0.1  # share of points with a negative z, of those with any
ENOUGH = 0.05  # share of the pixels, below which hardly anything is measured
LINE = 1e-8  # variance across a line over that along it
LOOKED_AT = 10_000  # points, about as many


def checked_points(
    path: Path, xyz: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...], int]:
    """Returns points with (0,0,0) where unmeasured, flags, and how many were no number.

    Args:
        path: their file, for errors.
        xyz: [H,W,3] float32 metres along the viewing direction. NaN, infinity, a z of 0
            and a mark mean unmeasured.

    Raises:
        CorruptSampleError: distances of 10 m and over (millimetres?) or below 1 mm, a
            negative z in over a tenth of the points, or points on a line.
    """
    finite = np.isfinite(xyz).all(axis=-1)
    nonfinite = int(finite.size - finite.sum())
    xyz = np.where(finite[..., None], xyz, np.float32(0))
    z, flags = checked_distances(path, xyz[..., 2])
    there = z > 0
    xyz = np.where(there[..., None], xyz, np.float32(0))
    _refuse_far(path, xyz)
    if there.mean() >= ENOUGH:
        _refuse_line(path, xyz[there])
    return xyz, flags, nonfinite


def checked_distances(path: Path, z: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns z [H,W] with 0 where unmeasured, and flags.

    Flags: `mark_read` where one impossible value marks unmeasured points,
    `behind_camera` where a few are negative, `hardly_measured` where few are left.

    Raises:
        CorruptSampleError: see `checked_points`.
    """
    flags = []
    there = (z > 0) & (z < MAX_METRES)
    impossible = z[(z < 0) | (z >= MAX_METRES)]
    if impossible.size > 1 and there.any() and (impossible == impossible[0]).all():
        flags.append("mark_read")
        z = np.where(there, z, np.float32(0))
    _refuse_far(path, z)
    behind = int((z < 0).sum())
    if behind > MAX_BEHIND * (z != 0).sum():
        raise CorruptSampleError(
            path,
            "expected a positive z, metres along the viewing direction, found a "
            f"negative one in {behind} of {(z != 0).sum()} points: turn y and z round "
            "if z points to the camera",
        )
    if behind:
        flags.append("behind_camera")
    z = np.where(there, z, np.float32(0))
    if there.any():
        middle = float(np.median(z[there]))
        if middle < MIN_METRES:
            raise CorruptSampleError(
                path, f"expected metres, found a median distance of {middle:g}"
            )
        if there.mean() < ENOUGH:
            flags.append("hardly_measured")
    return z, tuple(flags)


def _refuse_far(path: Path, values: np.ndarray) -> None:
    largest = float(np.abs(values).max())
    if largest >= MAX_METRES:
        raise CorruptSampleError(
            path,
            f"expected metres below {MAX_METRES:g}, found values up to {largest:g}: "
            "millimetres?",
        )


def _refuse_line(path: Path, points: np.ndarray) -> None:
    points = points[:: max(1, len(points) // LOOKED_AT)].astype(np.float64)
    spread = np.linalg.eigvalsh(np.cov(points.T)) if len(points) > 2 else np.ones(3)
    if spread[1] <= LINE * spread[2]:
        raise CorruptSampleError(
            path,
            "expected x, y and z of a surface, found points that lie on one line: x "
            "grows along the columns and y along the rows",
        )
