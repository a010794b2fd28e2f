"""The recipe `raw`: nothing but resizing; every measured point counts as object."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from data_pipelines.recipes.base import Applied, Parameters, Recipe, Sample, sizes
from data_pipelines.resize import resize_nearest, resize_picture

DEFAULTS = {"image_size": 256, "mask_size": None}


def fit(parameters: Parameters, samples: Iterable[Sample]) -> dict[str, Any]:
    """Returns the parameters; nothing is learned from the samples."""
    del samples
    return dict(parameters)


def apply(params: Parameters, sample: Sample) -> Applied:
    """Resizes a sample; depth is z as measured, 0 where it is missing."""
    image_size, mask_size = sizes(params)
    record = pictures(sample, image_size, mask_size)
    if sample.xyz is None:
        return Applied(record)
    xyz = resize_nearest(sample.xyz, image_size)
    depth = np.maximum(xyz[..., 2:], 0)
    valid = depth > 0
    record.update(xyz=xyz, depth=depth, valid=valid, foreground=valid.copy())
    measured = (sample.xyz[..., 2] > 0).any()
    return Applied(record, () if measured else ("nothing_measured",))


def pictures(
    sample: Sample, image_size: tuple[int, int], mask_size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Returns the fields rgb and mask of a record, resized."""
    if sample.mask is None:
        mask = np.zeros((*mask_size, 1), bool)
    else:
        mask = resize_nearest(sample.mask > 0, mask_size)[..., None]
    return {"rgb": resize_picture(sample.rgb, image_size), "mask": mask}


def extras(params: Parameters) -> Mapping[str, tuple[tuple[int, ...], str]]:
    """Returns no extras."""
    del params
    return {}


RAW = Recipe("raw", DEFAULTS, extras, fit, apply)
