"""The background step `none`: every measured point counts as object."""

import numpy as np

from data_pipelines.measured import measured
from data_pipelines.recipes.base import Background, Parameters, Sample, Scene


def separate(params: Parameters, sample: Sample) -> Scene:
    """Returns the scene; depth is z as measured, 0 where it is missing.

    The flag `nothing_measured` marks a sample without any point.
    """
    del params
    valid = measured(sample.xyz)
    depth = np.where(valid, sample.xyz[..., 2], np.float32(0))
    maps = {"depth": depth, "valid": valid, "foreground": valid.copy()}
    return Scene(sample, maps, () if valid.any() else ("nothing_measured",))


NONE = Background("none", separate)
