"""Points as a camera sees them: unmeasured ones set to zero, impossible ones refused.

They are judged by their values. What no camera can have measured and is one value
throughout marks unmeasured points; anything else that cannot be right is an error.
"""

from pathlib import Path

import numpy as np

from data_pipelines.errors import CorruptSampleError

MAX_METRES = 10.0
MIN_METRES = 1e-3
MAX_BEHIND = 0.1  # share of points with a negative z, of those with any
ENOUGH = 0.05  # share of the pixels, below which hardly anything is measured
LINE = 1e-8  # variance across a line over that along it
FAR, RECURS = 2.0, 0.01  # times all other distances; share of the points
ORDERED = 0.1  # least share of the spread of x and y that rows and columns explain
TURNED = 2.0  # times the other axis, above which x and y are swapped
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
            negative z in over a tenth of the points, points on a line, in no order, or
            whose x grows along the rows and y along the columns.
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
        flags = (*flags, *_refuse_disorder(path, xyz, there))
    return xyz, flags, nonfinite


def checked_distances(path: Path, z: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns z [H,W] with 0 where unmeasured, and flags.

    Flags: `mark_read` where one impossible value marks unmeasured points,
    `behind_camera` where a few are negative or below 1 mm, `hardly_measured` where few
    are left, `far_behind` where one distance recurs far behind all others.

    Raises:
        CorruptSampleError: see `checked_points`.
    """
    flags = []
    there = (z >= MIN_METRES) & (z < MAX_METRES)
    impossible = z[(z != 0) & ~there]
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
    before = z[z > 0]
    if before.size and np.median(before) < MIN_METRES:
        raise CorruptSampleError(
            path, f"expected metres, found a median distance of {np.median(before):g}"
        )
    if behind or before.size > there.sum():
        flags.append("behind_camera")
    if 0 < there.mean() < ENOUGH:
        flags.append("hardly_measured")
    if there.any() and _recurs_far(z[there]):
        flags.append("far_behind")
    return np.where(there, z, np.float32(0)), tuple(flags)


def _recurs_far(z: np.ndarray) -> bool:
    largest = z == z.max()
    others = z[~largest]
    return bool(
        largest.mean() > RECURS and others.size and z.max() > FAR * others.max()
    )


def _refuse_far(path: Path, values: np.ndarray) -> None:
    largest = float(np.abs(values).max())
    if largest >= MAX_METRES:
        raise CorruptSampleError(
            path,
            f"expected metres below {MAX_METRES:g}, found values up to {largest:g}: "
            "millimetres?",
        )


def _refuse_line(path: Path, points: np.ndarray) -> None:
    points = _some(points).astype(np.float64)
    spread = np.linalg.eigvalsh(np.cov(points.T)) if len(points) > 2 else np.ones(3)
    if spread[1] <= LINE * spread[2]:
        raise CorruptSampleError(
            path,
            "expected x, y and z of a surface, found points that lie on one line: x "
            "grows along the columns and y along the rows",
        )


def _refuse_disorder(path: Path, xyz: np.ndarray, there: np.ndarray) -> tuple[str, ...]:
    """Refuses points that do not lie as pixels do; flags `mirrored` ones.

    How x and y change along rows and columns comes of a plane through each of them.
    """
    pixels = _some(np.argwhere(there))
    x_and_y = xyz[pixels[:, 0], pixels[:, 1], :2].astype(np.float64)
    x_and_y -= x_and_y.mean(axis=0)
    places = pixels - pixels.mean(axis=0)
    steps = np.linalg.lstsq(places, x_and_y)[0]
    (x_rows, y_rows), (x_columns, y_columns) = steps
    explained = ((places @ steps) ** 2).sum()
    if explained < ORDERED * (x_and_y**2).sum():
        raise CorruptSampleError(
            path,
            "expected points in rows and columns, as a camera sees them, found points "
            "in no order",
        )
    x_turned = abs(x_rows) > TURNED * abs(x_columns)
    if x_turned and abs(y_columns) > TURNED * abs(y_rows):
        raise CorruptSampleError(
            path,
            "expected x to grow along the columns and y along the rows, found the "
            "contrary: are x and y swapped, or the points turned against the image?",
        )
    return ("mirrored",) if x_columns < 0 or y_rows < 0 else ()


def _some(points: np.ndarray) -> np.ndarray:
    return points[:: max(1, len(points) // LOOKED_AT)]
