"""Features of the square cells of an image: BTF's sets, made by hand or by a network.

E. Horwitz, Y. Hoshen, arXiv 2203.05550, and the authors' release.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import jax.numpy as jnp

from ad3d_jax.base import Array, Batch, Tree
from ad3d_jax.features.extractors import extractor, feature_maps
from ad3d_jax.features.inputs import unnormalised
from ad3d_jax.features.patches import cell_pool
from ad3d_jax.ops.fpfh import fpfh
from ad3d_jax.ops.hog import hog
from ad3d_jax.ops.sift import dense_sift

FEATURE_SETS = {
    **{name: (name,) for name in ("rgb", "depth", "raw", "hog", "sift", "fpfh")},
    "rgb_fpfh": ("rgb", "fpfh"),
}


class Cells(Protocol):
    """Fields of a configuration that say how cells are described."""

    features: str  # a name in FEATURE_SETS
    cells: int  # a side
    fpfh: str  # jnp | open3d, which the recipe has made
    backbone: str  # of the sets with a network
    layers: tuple[str, ...]  # of that network


def has_network(features: str) -> bool:
    """Returns whether the feature set has image features."""
    return not {"rgb", "depth"}.isdisjoint(FEATURE_SETS[features])


def cell_features(config: Cells, frozen: Tree, batch: Batch) -> Array:
    """Returns the features of all cells, [B,cells,cells,D] float32.

    Parts of a set lie side by side as they are: neither is normalised or weighed, so
    that FPFH, whose entries reach 200, decides most distances (sheet §3.4).

    Args:
        config: names the set.
        frozen: holds "backbone" where the set has a network.
        batch: holds what `System.needs_fit` names.

    Raises:
        ValueError: the image or the precomputed cells do not fit `config.cells`.
    """
    parts = FEATURE_SETS[config.features]
    cells = [MAKERS[part](config, frozen, batch) for part in parts]
    return jnp.concatenate(cells, axis=-1)


def field_of(config: Cells, part: str) -> str:
    """Returns the batch field that a part of a feature set is made from."""
    if part == "fpfh" and config.fpfh == "open3d":
        return "extras.fpfh"
    return "rgb" if part == "rgb" else "xyz"


def rgb_cells(config: Cells, frozen: Tree, batch: Batch) -> Array:
    """Returns network features of the image; 1536 of wide_resnet50."""
    return _network_cells(config, frozen, batch.rgb)


def depth_cells(config: Cells, frozen: Tree, batch: Batch) -> Array:
    """Returns network features of z in metres, three times over, not normalised."""
    # The network's input is normalised; undone here, as the release has it.
    image = unnormalised(_z(batch), extractor(config.backbone).inputs)
    return _network_cells(config, frozen, image)


def raw_cells(config: Cells, frozen: Tree, batch: Batch) -> Array:
    """Returns the z-map cut into runs of successive pixels: 64 at 224 pixels.

    As in the release a cell is no square block: its pixels follow on each other in the
    order of memory.
    """
    _cell_side(config, batch)
    return _z(batch).reshape(batch.xyz.shape[0], config.cells, config.cells, -1)


def hog_cells(config: Cells, frozen: Tree, batch: Batch) -> Array:
    """Returns histograms of 8 gradient directions of z in every cell."""
    return hog(_z(batch), cell=_cell_side(config, batch), orientations=8)


def sift_cells(config: Cells, frozen: Tree, batch: Batch) -> Array:
    """Returns dense SIFT of z, averaged over the cells: 128 numbers."""
    return cell_pool(dense_sift(_z(batch)), config.cells)


def fpfh_cells(config: Cells, frozen: Tree, batch: Batch) -> Array:
    """Returns point feature histograms averaged over the cells: 33 numbers.

    A point counts if none of its coordinates is 0, as in the release.
    """
    if config.fpfh == "jnp":
        there = jnp.all(batch.xyz != 0, axis=-1, keepdims=True)
        return cell_pool(fpfh(batch.xyz, there), config.cells)
    found = batch.extras["fpfh"]
    if found.shape[1:3] != (config.cells, config.cells):
        raise ValueError(
            f"model.cells: the recipe's FPFH has {found.shape[1]} x {found.shape[2]} "
            f"cells, found {config.cells}"
        )
    return found


MAKERS: Mapping[str, Callable[[Cells, Tree, Batch], Array]] = {
    "rgb": rgb_cells,
    "depth": depth_cells,
    "raw": raw_cells,
    "hog": hog_cells,
    "sift": sift_cells,
    "fpfh": fpfh_cells,
}


def _network_cells(config: Cells, frozen: Tree, image: Array) -> Array:
    """Returns the maps of the layers, each averaged over the cells, side by side."""
    maps = feature_maps(frozen["backbone"], config.backbone, image, config.layers)
    return jnp.concatenate([cell_pool(x, config.cells) for x in maps], axis=-1)


def _z(batch: Batch) -> Array:
    return batch.xyz[..., 2:]


def _cell_side(config: Cells, batch: Batch) -> int:
    """Returns the side of a cell in pixels.

    Raises:
        ValueError: the cells do not divide the image into squares.
    """
    height, width = batch.xyz.shape[1:3]
    if height != width or height % config.cells:
        raise ValueError(
            f"model.features={config.features} needs a square image whose side is a "
            f"multiple of model.cells = {config.cells}, found {height} x {width}"
        )
    return height // config.cells
