"""The background step `dsr`: the part told from the plane under it.

The preprocessing of 3DSR (Zavrtanik et al., WACV 2024; VitjanZ/3DSR): a plane through
three corners of the scan, everything near it background, small gaps of the depth
filled. All is done after resizing; the recipe's extra `depth_normalised` then stretches
the part's depth in each image.

Ours differs: a corner's window grows until it holds a point (there: an empty corner
counts as the origin), what cannot be told from a plane stays whole and is flagged, and
images are resized without aliasing.
"""

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion

from data_pipelines.measured import measured
from data_pipelines.recipes.base import (
    Background,
    Parameters,
    Sample,
    Scene,
    check_metres,
    check_whole,
)
from data_pipelines.recipes.depth import fill_gaps

DEFAULTS = {
    "distance": 0.005,  # metres; nearer to the plane is background
    "closing": 3,  # pixels that dents and holes of the foreground are closed by
    "passes": 2,  # of gap filling
}
WINDOW = 3  # pixels a side of a corner
SLIM = 1e-3  # sine of the least angle between two edges of the plane


def check(parameters: Parameters) -> None:
    """Raises DatasetError where a parameter is out of its range."""
    for name in ("closing", "passes"):
        check_whole(name, parameters, 0)
    check_metres("distance", parameters)


def separate(params: Parameters, sample: Sample) -> Scene:
    """Tells the part of a resized sample from the plane.

    Returns:
        The scene, with depth in metres after the filling of gaps. The foreground has
        the part's unmeasured pixels too. Flags: `nothing_measured`; `no_plane` where
        the corners span none and `nothing_found` where nothing is off it, both with
        all measured pixels as foreground.
    """
    valid = measured(sample.xyz)
    foreground, flags = _foreground(params, sample.xyz, valid)
    depth = fill_gaps(np.where(valid, sample.xyz[..., 2], 0), params["passes"])
    maps = {"depth": depth, "valid": valid, "foreground": foreground}
    return Scene(sample, maps, flags)


def _foreground(params: Parameters, xyz: np.ndarray, valid: np.ndarray):
    """Returns the foreground [H,W] bool and the flags."""
    if not valid.any():
        return valid.copy(), ("nothing_measured",)
    distance = plane_distance(xyz, valid)
    if distance is None:
        return valid.copy(), ("no_plane",)
    foreground = close((distance > params["distance"]) & valid, params["closing"])
    if not foreground.any():
        return valid.copy(), ("nothing_found",)
    return foreground, ()


def plane_distance(xyz: np.ndarray, valid: np.ndarray) -> np.ndarray | None:
    """Returns the distance to the plane through three corners, [H,W] float64 metres.

    The corners are those at the top left, top right and bottom left, each the mean of
    the measured points in its window of 3 x 3 pixels, doubled in side until it holds
    one. None where the three lie on a line.

    Args:
        xyz: [H,W,3] metres.
        valid: [H,W] bool, some of them true.
    """
    points = xyz.astype(np.float64)
    flips = ((1, 1), (1, -1), (-1, 1))
    first, right, below = (_corner(points[::v, ::h], valid[::v, ::h]) for v, h in flips)
    down, across = below - first, right - first
    normal = np.cross(down, across)
    length = np.linalg.norm(normal)
    if length <= SLIM * np.linalg.norm(down) * np.linalg.norm(across):
        return None
    return np.abs((points - below) @ (normal / length))


def _corner(points: np.ndarray, valid: np.ndarray) -> np.ndarray:
    window = WINDOW
    while not valid[:window, :window].any():
        window *= 2
    return points[:window, :window][valid[:window, :window]].mean(axis=0)


def close(foreground: np.ndarray, steps: int) -> np.ndarray:
    """Returns the morphological closing of [H,W] bool by 3 x 3, `steps` times each way.

    What lies outside the image counts for neither step.
    """
    if steps == 0:
        return foreground
    square = np.ones((3, 3), bool)
    wide = binary_dilation(foreground, square, steps)
    return binary_erosion(wide, square, steps, border_value=1)


DSR = Background("dsr", separate, DEFAULTS, check, resized_first=True)
