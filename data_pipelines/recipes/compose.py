"""Composes recipes: a background step, the resizing, and makers of extras."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from data_pipelines.errors import DatasetError
from data_pipelines.recipes import resizing
from data_pipelines.recipes.base import (
    NOTHING,
    Applied,
    Background,
    Fields,
    Parameters,
    Recipe,
    Record,
    Regions,
    Sample,
    numbered,
    regions_left,
    sizes,
)
from data_pipelines.recipes.extras import MAKERS
from data_pipelines.recipes.resizing import resized, resized_scene


def composed(
    name: str, background: Background, extras: tuple[str, ...] = (), **changes: Any
) -> Recipe:
    """Returns a recipe.

    Args:
        name: of the recipe.
        background: its first step.
        extras: that it always makes; others are made where they are asked for.
        changes: of the defaults of its parts.
    """
    defaults = {**resizing.DEFAULTS, **background.defaults, **changes}
    possible = (
        name
        for name, maker in MAKERS.items()
        if background.gives_height or not maker.needs_height
    )
    return Recipe(
        name,
        {**defaults, "extras": list(extras)},
        _fields,
        partial(_fit, background),
        partial(_process, name, background),
        tuple(possible),
        background.needs_xyz,
    )


def _fields(params: Parameters, measured: frozenset[str]) -> Fields:
    image, mask = sizes(params)
    fields: Fields = {"mask": ((*mask, 1), "bool")}
    if "rgb" in measured:
        fields["rgb"] = ((*image, 3), "uint8")
    if "xyz" in measured:
        fields["xyz"] = ((*image, 3), "float32")
        fields["depth"] = ((*image, 1), "float32")
        fields["valid"] = fields["foreground"] = ((*image, 1), "bool")
        for name in params["extras"]:
            maker = MAKERS[name]
            fields[name] = (maker.shape(params), maker.dtype(params))
    return fields


def _fit(
    background: Background, parameters: Parameters, samples: Iterable[Sample]
) -> dict[str, Any]:
    resizing.check(parameters)
    background.check(parameters)
    for name in parameters["extras"]:
        MAKERS[name].check(parameters)
    if background.fit is None:
        return dict(parameters)
    return background.fit(parameters, samples)


def _process(
    name: str, background: Background, params: Parameters, sample: Sample
) -> tuple[Applied, Regions]:
    mask, count = numbered(sample.mask)
    sample = sample._replace(mask=mask)
    if sample.xyz is None:
        if background.needs_xyz:
            raise DatasetError(f"recipe {name}: needs points, found an image alone")
        return _applied(resized(params, sample), count)
    if sample.xyz.shape[1] == 1:
        raise DatasetError(
            f"recipe {name}: expected points in rows and columns, as a camera sees "
            "them, found a list of points; the recipe points takes lists"
        )
    if background.resized_first:
        scene = background.separate(params, resized(params, sample))
    else:
        scene = resized_scene(params, background.separate(params, sample))
    more = {name: array[..., None] for name, array in scene.maps.items()}
    for extra in params["extras"]:
        more[extra] = MAKERS[extra].make(params, scene)
    return _applied(scene.sample, count, more, scene.flags)


def _applied(
    sample: Sample, count: int, more: Record = NOTHING, flags: tuple[str, ...] = ()
) -> tuple[Applied, Regions]:
    """Returns the record of a sample at its final size, whose mask is numbered."""
    fields = {"rgb": sample.rgb, "xyz": sample.xyz, **more}
    record = {name: array for name, array in fields.items() if array is not None}
    record["mask"] = sample.mask[..., None] > 0
    return Applied(record, flags), regions_left(sample.mask, count)
