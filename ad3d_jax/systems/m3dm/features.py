"""What M3DM sees: tokens of point groups, and patches of the image.

What is kept of a sample are the tokens, and which three of them a pixel's features are
interpolated from: 8 MB, where features of all pixels would take 230 MB.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, Pretrained, State, Tree
from ad3d_jax.features.extractors import (
    deepest,
    feature_maps,
    init_backbone,
    pretrained_backbone,
)
from ad3d_jax.features.patches import adaptive_pool, as_rows, replicate_patches
from ad3d_jax.features.point_maps import point_map
from ad3d_jax.features.points import init_points, point_features, pretrained_points
from ad3d_jax.nn.point_transformer import LAYERS as POINT_LAYERS
from ad3d_jax.ops.point_sets import Interpolation
from ad3d_jax.systems.m3dm.config import Config


def init(config: Config, key: Array) -> dict[str, Tree]:
    """Returns `State.frozen` with random networks, of the modalities that are read."""
    image, points = jax.random.split(key)
    frozen = {}
    if "rgb" in config.needs:
        last = deepest(config.backbone, config.layers)
        frozen["backbone"] = init_backbone(image, config.backbone, last)
    if "xyz" in config.needs:
        last = max(config.point_layers, key=POINT_LAYERS.index)
        frozen["points"] = init_points(points, config.point_network, last)
    return frozen


def pretrained_parts(config: Config) -> tuple[Pretrained, ...]:
    """Returns the rows of `System.pretrained`: the networks."""
    parts = ()
    if "rgb" in config.needs:
        accepted = (config.source,) if config.source else ()
        parts += (pretrained_backbone(config.backbone, accepted),)
    if "xyz" in config.needs:
        parts += (pretrained_points(config.point_network),)
    return parts


def cached(config: Config, state: State, batch: Batch) -> dict[str, Array]:
    """Returns what the networks say of a sample, which no phase changes.

    A point counts if none of its coordinates is 0, as in the release. The cloud is
    neither centred nor scaled.
    """
    found = {}
    if "rgb" in config.needs:
        weights = state.frozen["backbone"]
        maps = feature_maps(weights, config.backbone, batch.rgb, config.layers)
        found["rgb_patches"] = as_rows(replicate_patches(maps))
    if "xyz" in config.needs:
        groups = point_features(
            state.frozen["points"],
            config.point_network,
            batch.xyz,
            jnp.all(batch.xyz != 0, axis=-1, keepdims=True),
            config.point_layers,
            config.groups,
            config.group_size,
            config.point_statistics,
        )
        found["point_tokens"] = groups.tokens
        found["point_index"], found["point_weight"] = groups.index, groups.weight
    return found


def of_points(config: Config, batch: Batch) -> jax.Array:
    """Returns the point features of all cells, [B,cells**2,D] float32.

    Those of a pixel's point are a weighted sum of three tokens; on the image's grid
    they are averaged to cells. Cells that no point reaches are exactly 0.

    Args:
        config: says how many cells.
        batch: holds what `cached` makes.
    """
    size, extras = batch.xyz.shape[1:3], batch.extras

    def one(sample):
        tokens, *way = sample
        return point_map(tokens, Interpolation(*way), size, config.cells)

    names = "point_tokens", "point_index", "point_weight"
    # One sample at a time: its rows of pixels are wide.
    return as_rows(jax.lax.map(one, tuple(extras[name] for name in names)))


def of_rgb(batch: Batch) -> Array:
    """Returns the image features of all places, [B,P,E] float32."""
    return batch.extras["rgb_patches"]


def on_cells(config: Config, rows: Array) -> jax.Array:
    """Returns image features [B,P,E] on the grid of the points, [B,cells**2,E]."""
    side = round(rows.shape[1] ** 0.5)
    grid = rows.reshape(len(rows), side, side, -1)
    return as_rows(adaptive_pool(grid, config.cells))


def tiled(config: Config, places: int) -> np.ndarray:
    """Returns which place each cell is paired with in the release, [cells**2] int32.

    It repeats the rows of the image and reads them in another order, so that of 3136
    cells eight have the place where they lie.

    Raises:
        ValueError: the places do not divide the cells.
    """
    times, rest = divmod(config.cells**2, places)
    if rest:
        raise ValueError(
            f"model.uff_pairing=as_released repeats the image's {places} places: "
            f"expected a multiple of them, found model.cells={config.cells}, squared"
        )
    cell = np.arange(config.cells**2)
    return ((times * (cell % places) + cell // places) % places).astype(np.int32)
