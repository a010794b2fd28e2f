"""The background step `plane`: the table and all but the largest object are removed.

The background removal of BTF (Horwitz and Hoshen, CVPRW 2023; eliahuhorwitz/3D-ADS),
which M3DM, CPMF and CMDIAD share: a plane through the border of the scan, everything
near it removed, zeros around the scan to make it square, and the largest cluster of
what is left. All is done at the sensor's resolution.

Ours differs: the plane is the same in every run, nothing is written over, samples in
which there is nothing to remove or to keep stay whole and are flagged, and a point is
measured where z > 0 (there: where no coordinate is 0).
"""

import numpy as np

from data_pipelines.geometry import cluster, fit_plane
from data_pipelines.measured import measured
from data_pipelines.recipes import none
from data_pipelines.recipes.base import (
    Background,
    Parameters,
    Sample,
    Scene,
    check_choice,
    check_metres,
    check_share,
    check_whole,
)
from data_pipelines.resize import resize_nearest

DEFAULTS = {
    "strip": 10,  # pixels along each border, whose points give the plane
    "inlier_distance": 0.004,  # metres
    "points_per_hypothesis": 50,
    "hypotheses": 1000,
    "seed": 0,
    "removal_distance": 0.005,  # metres; nearer to the plane is table
    "pad_to": 100,  # pixels; the square's side is a multiple of it
    "cluster_radius": 0.006,  # metres
    "cluster_points": 30,
    "all_foreground": 0.98,  # of the measured pixels: above it no table was found
    "colour": "removed",  # with the points | kept, and edges repeated around the scan
}
LEAST = {
    **{"strip": 1, "points_per_hypothesis": 3, "hypotheses": 1, "seed": 0},
    **{"pad_to": 1, "cluster_points": 1},
}
METRES = ("inlier_distance", "removal_distance", "cluster_radius")
# How image and mask are padded to a square, of NumPy's modes.
PADDING = {"removed": "constant", "kept": "edge"}


def check(parameters: Parameters) -> None:
    """Raises DatasetError where a parameter is out of its range."""
    for name, least in LEAST.items():
        check_whole(name, parameters, least)
    for name in METRES:
        check_metres(name, parameters)
    check_share("all_foreground", parameters)
    check_choice("colour", parameters, tuple(PADDING))


def separate(params: Parameters, sample: Sample) -> Scene:
    """Removes the background of a sample and pads it to a square.

    Returns:
        The scene. Removed points are (0,0,0) and their pixels black; pixels that were
        not measured keep their colour. Where `colour` is "kept", all pixels do, and
        what is added around image and mask repeats their edges (CFM, arXiv 2312.04521).
        valid and foreground are the points that were kept. The mask is padded but not
        cut: a defect may lie on what was removed.
        Flags: `nothing_measured`; `no_plane` where the border has no points that span
        one, `nothing_found` where no point is off the plane and `all_foreground` where
        hardly one is on it, all three with all points kept; `noise_kept` where the
        largest group is that of points in no cluster, which takes part in the vote as
        in the public implementation.
    """
    kept, flags = _object(params, sample.xyz)
    removed = measured(sample.xyz) & ~kept
    rgb, xyz, mask = sample.rgb, sample.xyz.copy(), sample.mask
    xyz[~kept] = 0
    if rgb is not None and params["colour"] == "removed":
        rgb = rgb.copy()
        rgb[removed] = 0
    if mask is not None:
        mask = resize_nearest(mask, kept.shape)
    mode = PADDING[params["colour"]]
    square = (
        None if array is None else pad_to_square(array, params["pad_to"], mode)
        for array, mode in ((rgb, mode), (xyz, "constant"), (mask, mode))
    )
    return none.separate(params, Sample(*square))._replace(flags=flags)


def _object(params: Parameters, xyz: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns which pixels [h,w] hold the object, and flags."""
    there = measured(xyz)
    if not there.any():
        return there, ("nothing_measured",)
    plane = fit_plane(
        _border(xyz, there, params["strip"]),
        params["inlier_distance"],
        params["points_per_hypothesis"],
        params["hypotheses"],
        seed=params["seed"],
    )
    if plane is None:
        return there, ("no_plane",)
    off = there & (plane.distance(xyz) >= params["removal_distance"])
    if not off.any():
        return there, ("nothing_found",)
    if off.sum() > params["all_foreground"] * there.sum():
        return there, ("all_foreground",)
    labels = cluster(xyz[off], params["cluster_radius"], params["cluster_points"])
    names, sizes = np.unique(labels, return_counts=True)
    largest = names[sizes.argmax()]
    kept = np.zeros_like(there)
    kept[off] = labels == largest
    return kept, ("noise_kept",) if largest < 0 else ()


def _border(xyz: np.ndarray, there: np.ndarray, strip: int) -> np.ndarray:
    """Returns the measured points [N,3] of four strips; corners count twice."""
    strips = np.s_[:strip], np.s_[-strip:], np.s_[:, :strip], np.s_[:, -strip:]
    return np.concatenate([xyz[part][there[part]] for part in strips])


def pad_to_square(
    array: np.ndarray, multiple: int, mode: str = "constant"
) -> np.ndarray:
    """Returns [H,W,...] in the middle of a square, of zeros or repeated edges.

    Its side is the longer side of the array, rounded up to a multiple; where the
    margin is odd, the one below and to the right is wider by a pixel. `mode` is
    NumPy's, "constant" or "edge".
    """
    side = -(-max(array.shape[:2]) // multiple) * multiple
    margins = [side - length for length in array.shape[:2]]
    widths = [(margin // 2, margin - margin // 2) for margin in margins]
    return np.pad(array, widths + [(0, 0)] * (array.ndim - 2), mode)


PLANE = Background("plane", separate, DEFAULTS, check, needs_xyz=True)
