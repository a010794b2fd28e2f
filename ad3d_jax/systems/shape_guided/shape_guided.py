"""Shape-Guided: patches of a cloud choose which colours their image may be compared to.

Y.-M. Chu, C. Liu, T.-I. Hsieh, H.-T. Chen, T.-L. Liu, "Shape-Guided Dual-Memory
Learning for 3D Anomaly Detection", ICML 2023, PMLR 202:6185-6194. Reference: the
authors' code, jayliu0313/Shape-Guided, whose constants are the defaults. What differs
is in the card `docs/systems/shape_guided.md`.

A network of signed distances, trained once for all classes, codes patches of points.
One memory holds the codes of the class, another the image's features beside the
patches. A test patch is rebuilt from stored codes; how far its points lie from the
rebuilt surface is the map of shape. The patches that were found say which image
features the test image is rebuilt from; what is left is the map of colour. The two are
put on one scale by training samples.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, Scores, State, System
from ad3d_jax.features.cells import rgb_cells
from ad3d_jax.features.extractors import BACKBONES
from ad3d_jax.features.patches import as_rows
from ad3d_jax.ops import knn
from ad3d_jax.ops.blur import blur_8bit
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.systems import backbones
from ad3d_jax.systems.fields import Range, at_least, numbers, one_of, within
from ad3d_jax.systems.modalities import map_size
from ad3d_jax.systems.shape_guided import distances, memories
from ad3d_jax.systems.shape_guided.patches import cover, cut, lowest_at_pixels

HYPER = distances.HYPER


@dataclass(frozen=True)
class Config(distances.Config):
    """Structure of the system; a change of any field compiles anew."""

    result: str = one_of("fused", "rgb", "sdf")  # whose map and score count
    atoms: int = 3  # that a vector is rebuilt from
    neighbours: int = 10  # stored codes that they are taken from
    rgb_neighbours: int = 5  # stored cells that they are taken from
    aligned: int = 25  # training samples that put both maps on one scale
    cells: int = 28  # a side
    backbone: str = one_of(*BACKBONES, default="wide_resnet50")
    layers: tuple[str, ...] = ("layer1", "layer2")
    source: str = "racm_in1k"  # set of weights that is accepted, see features.known
    blur_radius: float = within(Range(0, open=True), 4.0)  # deviation, pixels
    chunk_bytes: int = at_least(1, knn.CHUNK_BYTES)  # of rows compared at a time

    def __post_init__(self):
        super().__post_init__()
        for name in ("neighbours", "rgb_neighbours"):
            if getattr(self, name) < self.atoms:
                raise ValueError(
                    f"model.{name}: expected at least model.atoms = {self.atoms}, "
                    f"found {getattr(self, name)}"
                )


class Seen(NamedTuple):
    """What one memory says of a batch."""

    map: Array  # [B,H,W,1] float32, not blurred
    image: Array  # [B] float32, the largest distance from what was rebuilt


def shape_guided(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes."""
    shapes, colours = config.result != "rgb", config.result != "sdf"
    needs = ("rgb",) * colours + ("xyz", "extras.patches")

    def init(key, batch):
        first, second = jax.random.split(key)
        params, batch_stats = distances.init(config, first)
        frozen = backbones.init_frozen(config, second) if colours else {}
        state = State(params, frozen, {"batch_stats": batch_stats})
        width = 0
        if colours:
            width = jax.eval_shape(cache, state, batch)["rgb_cells"].shape[-1]
        memory = memories.empty(config, width)
        return state._replace(memory=memory, hyper=numbers(HYPER))

    def cache(state, batch):
        """Returns the image's features of all cells, [B,cells,cells,D]."""
        return {"rgb_cells": rgb_cells(config, state.frozen, batch)}

    def see(state, batch, itself):
        """Returns what the memories say, {"sdf": Seen, "rgb": Seen} or one of them.

        Args:
            state: holds them.
            batch: with the features of the cache.
            itself: whether the samples are in memory, so that the nearest entry, which
                is their own, is left out.
        """
        size, patches, seen = map_size(batch), cut(batch), {}
        codes = distances.encode(config, state, patches)
        found = rebuild("codes", state, codes, config.neighbours, itself)
        if shapes:
            off = distances.distances(config, state, patches, found.rebuilt)
            map = lowest_at_pixels(patches, off, size)
            residual = jnp.where(patches.there, found.residual, 0)
            seen["sdf"] = Seen(map, jnp.max(residual, axis=1))
        if colours:
            allowed = memories.allowed_cells(state.memory, found.number, patches.there)
            rows = as_rows(batch.extras["rgb_cells"])
            found = rebuild("rgb", state, rows, config.rgb_neighbours, itself, allowed)
            covered = jnp.any(cover(patches, size, config.cells), axis=1)
            residual = jnp.where(covered, found.residual, 0)
            grid = residual.reshape(-1, config.cells, config.cells, 1)
            seen["rgb"] = Seen(resize_bilinear(grid, size), jnp.max(residual, axis=1))
        return seen

    def rebuild(name, state, rows, *arguments):
        return memories.rebuild(config, state.memory[name], rows, *arguments)

    def blurred(maps):
        """Returns maps by name, blurred; all at once, so that one program does."""
        together = blur_8bit(jnp.concatenate(list(maps.values())), config.blur_radius)
        return dict(zip(maps, jnp.split(together, len(maps)), strict=True))

    def score(key, state, batch):
        """Returns the larger of both maps, on one scale, and both scores' product."""
        seen = see(state, batch, itself=False)
        maps = {f"map_{name}": what.map for name, what in seen.items()}
        if config.result != "fused":
            parts = blurred(maps)
            image = seen[config.result].image
            return Scores(parts[f"map_{config.result}"], image, parts)
        line = state.memory["line"]
        aligned = jnp.maximum(maps["map_rgb"] * line["factor"] + line["offset"], 0)
        parts = blurred({**maps, "map": jnp.maximum(aligned, maps["map_sdf"])})
        image = seen["sdf"].image * seen["rgb"].image
        return Scores(parts.pop("map"), image, parts)

    def maps(state, batch):
        """Returns the blurred maps of samples that are in memory."""
        seen = see(state, batch, itself=True)
        return blurred({name: what.map for name, what in seen.items()})

    phases = (distances.phase(config), memories.fill_phase(config, colours))
    if config.result == "fused":
        phases += (memories.align_phase(maps),)
    networks = backbones.pretrained_parts(config) if colours else ()
    return System(
        name="shape_guided",
        needs_fit=needs,
        needs_score=needs,
        init=init,
        phases=phases,
        score=score,
        pretrained=(distances.PRETRAINED, *networks),
        cache=cache if colours else None,
        sharded=("codes", "rgb") if colours else ("codes",),
    )
