"""Large pictures by parts, at the scale of the pictures that a system was fitted on.

A system that is `base.Local` scores cells of a grid, each by the pixels within its
reach. Tiles overlap by so much that every cell is taken from a tile in which all of
these pixels are, so that there are no seams; the picture's own scores then come of the
whole grid, as the system makes them.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Batch, Local, Scores, with_cache
from ad3d_jax.devices import compilation, engines, kept
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.state import traced_from
from data_pipelines.batches import check_batch
from data_pipelines.recipes.base import sizes
from data_pipelines.resize import resized_size

ALIKE = 0.01  # of scales
Size = tuple[int, int]  # rows and columns


class Part(NamedTuple):
    """A stretch of an axis, and what is taken of it; pixels, ends are exclusive."""

    begin: int
    end: int
    first: int
    last: int


class Tiles:
    """Scores pictures of any size tile by tile."""

    def __init__(self, detector: Detector, side: int, overlap: int | None = None):
        """Checks what is asked for; nothing is compiled yet.

        Args:
            detector: of a system that is local.
            side: of a tile, pixels at the scale of the fit.
            overlap: of two tiles; None = as little as leaves no seams.

        Raises:
            ValueError: the system is not local, or the pictures of the fit had several
                scales; a side or an overlap is too small.
        """
        system = detector.system
        if system.local is None:
            raise ValueError(
                f"tile: {detector.config.system} ({detector.config.variant}) cannot "
                "score by tiles, since its map depends on the whole picture; PatchCore "
                "without re-weighting and SimpleNet, on a ResNet of colour, can"
            )
        self._detector, self._local = detector, system.local
        self._scale = _scale(detector)
        self._side, self._margin = _checked(system.local, side, overlap)
        engine = engines.make_engine("jit")

        def cells(key, state, batch):
            batch = with_cache(system, state, batch)
            return system.local.cells(key, state, batch)

        facts = traced_from(detector.config, system)
        program = kept.Program(
            compilation.compile_map(engine, cells, f"tiles of {system.name}"),
            facts and {**facts, "part": "cells"},
            lambda value: value,
        )
        self._cells = evaluation.compile_score(
            system, engine, detector.key, detector.state, program=program
        )
        self._whole = jax.jit(system.local.whole, static_argnums=1)

    def recipe(self, size: Size) -> dict[str, Any]:
        """Returns the recipe for a picture of a size, at the scale of the fit.

        The sides of what it makes are multiples of the network's step.
        """
        step = self._local.step
        scaled = [
            max(round(length * scale / step), 1) * step
            for length, scale in zip(size, self._scale, strict=True)
        ]
        changes = {"image_size": scaled, "mask_size": None, "resize_size": None}
        recipe = self._detector.recipe
        return {**recipe, "params": {**recipe["params"], **changes}}

    def _seen(self, batch: Batch) -> Batch:
        """Returns what the system looks at of a preprocessed batch.

        Raises:
            ValueError: it looks at what has other sizes than the picture.
        """
        needs = self._detector.system.needs_score
        kept = {name: getattr(batch, name) for name in needs if "." not in name}
        extras = [name.removeprefix("extras.") for name in needs if "." in name]
        kept["extras"] = {name: batch.extras[name] for name in extras}
        seen = Batch(**kept, weight=batch.weight, id=batch.id, category=batch.category)
        check_batch(seen)
        return seen

    def score(self, batch: Batch) -> Scores:
        """Returns the scores of a batch made by `recipe`, as NumPy arrays.

        Raises:
            ValueError: a field is missing, or not as `base.Batch` says.
        """
        batch, size = self._seen(batch), _size(batch)
        grid = None
        for rows in parts(size[0], self._side, self._margin):
            for columns in parts(size[1], self._side, self._margin):
                found = np.asarray(self._cells(_cut(batch, rows, columns)))
                if grid is None:
                    cells = (n // self._local.cell for n in size)
                    grid = np.empty((len(found), *cells, 1), np.float32)
                place, own = zip(*map(self._in_cells, (rows, columns)), strict=True)
                grid[:, *place] = found[:, *own]
        return jax.device_get(self._whole(grid, size))

    def _in_cells(self, part: Part) -> tuple[slice, slice]:
        """Returns what is taken of a part: in the picture's grid, and in its own."""
        begin, _, first, last = (n // self._local.cell for n in part)
        return slice(first, last), slice(first - begin, last - begin)


def parts(length: int, side: int, margin: int) -> list[Part]:
    """Returns tiles of an axis that overlap by two margins at least.

    Of a tile all is taken but a margin at each end that is not the picture's own.
    """
    if length <= side:
        return [Part(0, length, 0, length)]
    begins = [*range(0, length - side, side - 2 * margin), length - side]
    return [
        Part(
            begin,
            begin + side,
            begin + margin if begin else 0,
            begin + side - margin if begin + side < length else length,
        )
        for begin in begins
    ]


def _checked(local: Local, side: int, overlap: int | None) -> tuple[int, int]:
    """Returns side and margin of tiles, in whole steps."""
    step = local.step
    margin = -(-local.reach // step) * step
    if overlap is not None:
        if overlap < 2 * margin:
            raise ValueError(
                f"overlap: expected {2 * margin} pixels or more, since a score depends "
                f"on what lies {local.reach} pixels away; found {overlap}"
            )
        margin = overlap // (2 * step) * step
    if side % step or side <= 2 * margin:
        raise ValueError(
            f"tile: expected a multiple of {step} pixels, above the overlap of "
            f"{2 * margin}; found {side}"
        )
    return side, margin


def _scale(detector: Detector) -> tuple[float, float]:
    """Returns by what rows and columns were multiplied in the fit."""
    params = detector.recipe["params"]
    image, _ = sizes(params)
    scales = []
    for size in map(tuple, detector.origin.sizes):
        found = resized_size(size, image, params["resize_size"])
        scales.append([new / old for new, old in zip(found, size, strict=True)])
    if not scales or np.ptp(scales, axis=0).max() > ALIKE * np.max(scales):
        seen = ", ".join(f"{h} x {w}" for h, w in detector.origin.sizes) or "none"
        raise ValueError(
            f"tile: expected a fit on pictures of one size, which says the scale; "
            f"found {seen}"
        )
    return tuple(np.mean(scales, axis=0).tolist())


def _size(batch: Batch) -> Size:
    images = (batch.rgb, batch.xyz, batch.depth)
    return next(x for x in images if x is not None).shape[1:3]


def _cut(batch: Batch, rows: Part, columns: Part) -> Batch:
    """Returns a tile of all that has rows and columns."""

    def cut(x):
        if x.ndim < 4:  # book-keeping
            return x
        return x[:, rows.begin : rows.end, columns.begin : columns.end]

    return jax.tree.map(cut, batch)
