"""The background step `ast`: depth filled, the object told from the table by height.

The preprocessing of AST (Rudolph et al., WACV 2023) as DBRN (Bi et al., arXiv
2311.06797) changed it: what stays missing gets the mean depth of the background, and
the threshold of the foreground follows the height of the class. All is done at the
sensor's resolution; the recipe's extra `height_normalised` maps the height over the
table to [0.2, 0.8].
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import DatasetError
from data_pipelines.measured import measured
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
from data_pipelines.recipes.depth import background_surface, fill_gaps, two_means

DEFAULTS = {
    "passes": 3,  # of gap filling
    "tau": None,  # metres; None = `tau_share` of the height of the class, kept within
    "tau_least": 2e-3,  # metres
    "tau_most": 7e-3,  # metres
    "tau_share": 0.15,
    "normalisation": "class",  # or "image": minimum and maximum of each image
    "all_foreground": 0.98,  # of the measured pixels: above it no table was found
}
HEAD_ROOM = 1.1
FLAT = 1e-6  # metres; the least range of heights that is divided by
SAMPLED_SIDE = 256  # pixels a side that an image gives to the class-wide percentile


class Relief(NamedTuple):
    """A depth map and the table under it, at the sensor's resolution."""

    measured: np.ndarray  # [h,w] bool
    filled: np.ndarray  # [h,w] float32 metres, 0 where a gap was too wide
    table: np.ndarray  # [h,w] float64 metres

    @property
    def height(self) -> np.ndarray:
        """Returns the height over the table, [h,w] metres, 0 where filled is 0."""
        return np.where(self.filled > 0, self.table - self.filled, 0)


def relief(z: np.ndarray, passes: int) -> Relief | None:
    """Returns the relief of z [h,w] metres, or None where nothing was measured."""
    depth = np.maximum(z, 0)
    if not (depth > 0).any():
        return None
    filled = fill_gaps(depth, passes)
    return Relief(depth > 0, filled, background_surface(filled))


def _distances(sample: Sample) -> np.ndarray:
    """Returns z [h,w] metres, 0 where unmeasured."""
    return np.where(measured(sample.xyz), sample.xyz[..., 2], np.float32(0))


def fit(parameters: Parameters, samples: Iterable[Sample]) -> dict[str, Any]:
    """Learns the threshold and the range of heights of a class.

    Args:
        parameters: see `DEFAULTS`.
        samples: the normal training samples, visited once. Samples in which nothing was
            measured do not count.

    Returns:
        The parameters with `tau` and `height_max` in metres, or with None for both when
        no sample has points (images alone).

    Raises:
        DatasetError: points but no positive z in any sample.
    """
    with_points, tops, values = 0, [], []
    for sample in samples:
        if sample.xyz is None:
            continue
        with_points += 1
        found = relief(_distances(sample), parameters["passes"])
        if found is None:
            continue
        there = found.filled > 0
        height = found.height
        tops.append(np.percentile(np.abs(height[there]), 95))
        step = max(1, min(there.shape) // SAMPLED_SIDE)
        values.append(height[::step, ::step][there[::step, ::step]])
    if not with_points:
        return {**parameters, "height_max": None}
    if not tops:
        raise DatasetError(
            f"recipe ast: none of {with_points} training samples has a positive z; "
            "expected metres along the viewing direction, 0 where unmeasured"
        )
    tau = parameters["tau"]
    if tau is None:
        tau = float(parameters["tau_share"] * np.median(tops))
        tau = min(max(tau, parameters["tau_least"]), parameters["tau_most"])
    top = float(np.percentile(np.concatenate(values), 99.9))
    return {**parameters, "tau": tau, "height_max": max(HEAD_ROOM * top, FLAT)}


def check(parameters: Parameters) -> None:
    """Raises DatasetError where a parameter is out of its range."""
    check_choice("normalisation", parameters, ("class", "image"))
    check_whole("passes", parameters, 0)
    check_share("all_foreground", parameters)
    check_share("tau_share", parameters)
    for name in ("tau_least", "tau_most", "tau"):
        if parameters[name] is not None:
            check_metres(name, parameters)
    if parameters["tau_least"] > parameters["tau_most"]:
        raise DatasetError(
            "recipe: tau_least: expected at most tau_most "
            f"{parameters['tau_most']}, found {parameters['tau_least']}"
        )


def separate(params: Parameters, sample: Sample) -> Scene:
    """Tells the object from the table with what `fit` returned.

    Returns:
        The scene, with its height. Where the object cannot be told from the table, all
        that was measured is foreground and a flag says so: `nothing_found` or
        `all_foreground`; `nothing_measured` marks a depth of zeros.

    Raises:
        DatasetError: the sample has points and those that were fitted had none.
    """
    if params["height_max"] is None:
        raise DatasetError("recipe ast: fitted without points, applied to points")
    z = _distances(sample)
    found = relief(z, params["passes"])
    if found is None:
        nothing, flat = np.zeros(z.shape, bool), np.zeros(z.shape, np.float32)
        maps = {"depth": flat, "valid": nothing, "foreground": nothing.copy()}
        return Scene(sample, maps, ("nothing_measured",), flat, (0.0, FLAT))
    gap = found.filled == 0
    height, depth = found.height, found.filled
    foreground = (np.abs(height) > params["tau"]) & ~gap
    share = foreground.sum() / (~gap).sum()
    flags = ()
    if share == 0 or share > params["all_foreground"]:
        flags = ("nothing_found",) if share == 0 else ("all_foreground",)
        foreground = found.measured
    if gap.any():
        background = two_means(z[found.measured])[1]
        depth = np.where(gap, np.float32(background), depth)
        height = np.where(gap, found.table - background, height)
    maps = {"depth": depth, "valid": found.measured, "foreground": foreground}
    return Scene(sample, maps, flags, height, _range(params, found))


def _range(params: Parameters, found: Relief) -> tuple[float, float]:
    """Returns the heights that are normalised to the ends, metres."""
    if params["normalisation"] == "class":
        return 0.0, params["height_max"]
    heights = found.height[found.measured]
    low = float(heights.min())
    return low, low + max(float(heights.max()) - low, FLAT)


AST = Background("ast", separate, DEFAULTS, check, fit, gives_height=True)
