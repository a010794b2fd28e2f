"""The recipe `dsr`: the part told from the plane under it, its depth normalised.

The preprocessing of 3DSR (Zavrtanik et al., WACV 2024; VitjanZ/3DSR): a plane through
three corners of the scan, everything near it background, the part's depth stretched to
[0.1, 0.9] in each image, small gaps filled. All is done after resizing.

Ours differs: a corner's window grows until it holds a point (there: an empty corner
counts as the origin), what cannot be told from a plane stays whole and is flagged, and
pictures are resized without aliasing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion

from data_pipelines.errors import DatasetError
from data_pipelines.recipes.base import Applied, Parameters, Recipe, Sample, sizes
from data_pipelines.recipes.depth import fill_gaps
from data_pipelines.recipes.raw import check_choice, pictures
from data_pipelines.resize import INTERPOLATIONS, resize_nearest

DEFAULTS = {
    "image_size": 384,
    "mask_size": None,  # None = image_size
    "interpolation": "bilinear",  # of the picture: area | bilinear | bicubic | lanczos
    "distance": 0.005,  # metres; nearer to the plane is background
    "closing": 3,  # pixels that dents and holes of the foreground are closed by
    "passes": 2,  # of gap filling
}
LOW, SPAN = 0.1, 0.8  # normalised depth of the part lies in [0.1, 0.9]
FLAT = 1e-6  # metres; the least range of depths that is divided by
WINDOW = 3  # pixels a side of a corner
SLIM = 1e-3  # sine of the least angle between two edges of the plane


def fit(parameters: Parameters, samples: Iterable[Sample]) -> dict[str, Any]:
    """Returns the parameters; nothing is learned from the samples.

    Raises:
        DatasetError: a parameter is out of its range.
    """
    del samples
    check_choice("interpolation", parameters, INTERPOLATIONS)
    for name in ("closing", "passes"):
        if not (isinstance(parameters[name], int) and parameters[name] >= 0):
            raise DatasetError(
                f"recipe dsr: {name}: expected a whole number of 0 or more, found "
                f"{parameters[name]!r}"
            )
    if not 0 < parameters["distance"] < 1:
        raise DatasetError(
            "recipe dsr: distance: expected metres, above 0 and below 1, found "
            f"{parameters['distance']!r}"
        )
    return dict(parameters)


def apply(params: Parameters, sample: Sample) -> Applied:
    """Resizes a sample and tells the part from the plane.

    Returns:
        The record of `base.Recipe`, with depth in metres after the filling of gaps, and
        the extra `depth_normalised` [H,W,1] float32: 0.1 at the nearest point of the
        part, 0.9 at the farthest, 0 on the background. The foreground has the part's
        unmeasured pixels too. Flags: `nothing_measured`; `no_plane` where the corners
        span none and `nothing_found` where nothing is off it, both with all measured
        pixels as foreground.
    """
    image_size, mask_size = sizes(params)
    record = pictures(sample, image_size, mask_size, params["interpolation"])
    if sample.xyz is None:
        return Applied(record)
    xyz = np.ascontiguousarray(resize_nearest(sample.xyz, image_size))
    valid = xyz[..., 2] > 0
    foreground, flags = _foreground(params, xyz, valid)
    part = np.where(foreground & valid, xyz[..., 2], np.float32(0))
    maps = {
        "depth": fill_gaps(np.where(valid, xyz[..., 2], 0), params["passes"]),
        "valid": valid,
        "foreground": foreground,
        "depth_normalised": fill_gaps(normalise(part), params["passes"]),
    }
    record.update(xyz=xyz, **{name: x[..., None] for name, x in maps.items()})
    return Applied(record, flags)


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


def normalise(depth: np.ndarray) -> np.ndarray:
    """Returns 0.1 + 0.8 (z - min) / (max - min) where z [H,W] > 0, else 0, float32."""
    there = depth > 0
    if not there.any():
        return np.zeros(depth.shape, np.float32)
    values = depth[there].astype(np.float64)
    span = max(float(values.max() - values.min()), FLAT)
    result = np.zeros(depth.shape, np.float32)
    result[there] = LOW + SPAN * (values - values.min()) / span
    return result


def extras(params: Parameters) -> Mapping[str, tuple[tuple[int, ...], str]]:
    """Returns the shape and dtype of `depth_normalised`."""
    return {"depth_normalised": ((*sizes(params)[0], 1), "float32")}


DSR = Recipe("dsr", DEFAULTS, extras, fit, apply)
