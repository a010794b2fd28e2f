"""What a preprocessing recipe is."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

Parameters = Mapping[str, Any]
Record = dict[str, np.ndarray]


class Sample(NamedTuple):
    """A sample as decoded; what was not measured is None."""

    rgb: np.ndarray  # [h,w,3] uint8
    xyz: np.ndarray | None = None  # [h,w,3] float32 metres, (0,0,0) where unmeasured
    mask: np.ndarray | None = None  # [h,w] uint8, 0 = normal; None = all normal


class Applied(NamedTuple):
    """A preprocessed sample and what had to be given up for it."""

    record: Record
    flags: tuple[str, ...] = ()  # nothing_measured, nothing_found, …: see the recipe


class Recipe(NamedTuple):
    """A named way of preprocessing: two pure functions and their parameters.

    `fit(parameters, samples)` takes the defaults updated with the user's choice and the
    training samples, which it may visit once, and returns all that `apply` needs as a
    table that JSON can hold. `apply(params, sample)` returns the record, with the
    fields rgb [H,W,3] uint8, xyz [H,W,3] float32 metres, depth [H,W,1] float32 metres,
    valid and foreground [H,W,1] bool, mask [Hm,Wm,1] bool and the declared extras; the
    fields that need points are absent for a sample without points, which a recipe that
    needs points refuses.
    """

    name: str
    defaults: Parameters
    extras: Callable[[Parameters], Mapping[str, tuple[tuple[int, ...], str]]]
    fit: Callable[[Parameters, Iterable[Sample]], dict[str, Any]]
    apply: Callable[[Parameters, Sample], Applied]
    needs_xyz: bool = False  # its picture, too, depends on the points


def side(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (rows, columns) of a size given as one number or as two."""
    if isinstance(size, int):
        return size, size
    rows, columns = size
    return int(rows), int(columns)


def sizes(params: Parameters) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns (rows, columns) of the images and of the masks."""
    image = side(params["image_size"])
    mask = params["mask_size"]
    return image, image if mask is None else side(mask)
