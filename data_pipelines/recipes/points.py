"""The recipe `points`: points alone, as many of each sample, without rows and columns.

For systems of unorganised clouds. A scan in rows and columns gives its measured points;
its image, if there is one, is left out.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from data_pipelines.errors import DatasetError
from data_pipelines.measured import measured
from data_pipelines.recipes.base import (
    Applied,
    Fields,
    Parameters,
    Recipe,
    Regions,
    Sample,
    check_whole,
    numbered,
    regions_left,
)
from data_pipelines.resize import resize_nearest

DEFAULTS = {
    "points": 4096,  # of each sample: chosen at random, or filled up with (0,0,0)
    "seed": 0,  # of that choice
    "unit": 1.0,  # metres; that of the files, 0.001 for millimetres
    "centre": False,  # whether the mean of the chosen points becomes the origin
    "extras": [],
}
MAX_METRES = 10.0


def fields(params: Parameters, measured: frozenset[str]) -> Fields:
    """Returns shape and dtype of the fields: xyz, valid, foreground and mask."""
    del measured
    count = params["points"]
    flags = {name: ((count, 1, 1), "bool") for name in ("valid", "foreground", "mask")}
    return {"xyz": ((count, 1, 3), "float32"), **flags}


def fit(parameters: Parameters, samples: Iterable[Sample]) -> dict[str, Any]:
    """Returns the parameters; nothing is learned from the samples.

    Raises:
        DatasetError: a parameter is out of its range.
    """
    del samples
    check_whole("points", parameters, 1)
    check_whole("seed", parameters, 0)
    if not 0 < parameters["unit"] <= 1:
        raise DatasetError(
            "recipe points: unit: expected metres, above 0 and at most 1, found "
            f"{parameters['unit']!r}"
        )
    return dict(parameters)


def process(params: Parameters, sample: Sample) -> tuple[Applied, Regions]:
    """Returns xyz [N,1,3], valid, foreground and mask [N,1,1] of N points.

    Which points are chosen follows from the seed and from how many there are; they keep
    their order. The flag `filled_up` marks a sample with fewer, `nothing_measured` one
    without any.

    Raises:
        DatasetError: the sample has no points, or they lie 10 m away and more.
    """
    if sample.xyz is None:
        raise DatasetError("recipe points: needs points, found an image alone")
    there = measured(sample.xyz)
    xyz = sample.xyz[there] * np.float32(params["unit"])
    far = float(np.abs(xyz).max(initial=0))
    if far >= MAX_METRES:
        raise DatasetError(
            f"recipe points: unit: expected metres below {MAX_METRES:g}, found values "
            f"up to {far:g}; with unit=0.001 files in millimetres are read"
        )
    mask, regions = numbered(sample.mask)
    mask = np.zeros(there.shape, np.int32) if mask is None else mask
    mask = resize_nearest(mask, there.shape)[there]
    wanted = params["points"]
    flags = ("filled_up",) if 0 < len(xyz) < wanted else ()
    if len(xyz) > wanted:
        random = np.random.default_rng(params["seed"])
        chosen = np.sort(random.choice(len(xyz), wanted, replace=False))
        xyz, mask = xyz[chosen], mask[chosen]
    if params["centre"] and len(xyz):
        xyz = xyz - xyz.mean(0, dtype=np.float64).astype(np.float32)
    valid = np.arange(wanted) < len(xyz)
    filling = wanted - len(xyz)
    record = {
        "xyz": np.pad(xyz, ((0, filling), (0, 0)))[:, None],
        "valid": valid[:, None, None],
        "foreground": valid[:, None, None].copy(),
        "mask": np.pad(mask > 0, (0, filling))[:, None, None],
    }
    applied = Applied(record, flags if len(xyz) else ("nothing_measured",))
    return applied, regions_left(mask, regions)


POINTS = Recipe(
    *("points", DEFAULTS, fields, fit, process), needs_xyz=True, takes_lists=True
)
