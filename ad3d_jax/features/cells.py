"""Features of the square cells of an image: BTF's sets, made by hand or by a network.

E. Horwitz, Y. Hoshen, arXiv 2203.05550, and the authors' release.
"""

from collections.abc import Callable, Mapping, Sequence
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
    return not IMAGES.keys().isdisjoint(FEATURE_SETS[features])


def cell_features(config: Cells, frozen: Tree, batch: Batch) -> Array:
    """Returns the features of all cells, [B,cells,cells,D] float32.

    Parts of a set lie side by side as they are: neither is normalised or weighed, so
    that FPFH, whose entries reach 200, decides most distances (sheet §3.4).

    Args:
        config: names the set.
        frozen: holds "backbone" where the set has a network.
        batch: holds what `System.needs_fit` names, and may hold `kept_parts`.

    Raises:
        ValueError: the image or the precomputed cells do not fit `config.cells`.
    """
    kept = batch.extras
    if not kept_names(config) <= kept.keys():
        kept = kept_parts(config, frozen, batch)

    def cells(part: str) -> Array:
        if part in IMAGES:
            return _pooled(config, [kept[f"{part}_{x}"] for x in config.layers])
        name = f"{part}_cells"
        return kept[name] if name in kept else MAKERS[part](config, batch)

    parts = FEATURE_SETS[config.features]
    return jnp.concatenate([cells(part) for part in parts], axis=-1)


def kept_names(config: Cells) -> set[str]:
    """Returns the names of `kept_parts`."""
    names = set()
    for part in FEATURE_SETS[config.features]:
        if part in IMAGES:
            names |= {f"{part}_{layer}" for layer in config.layers}
        elif field_of(config, part) == "xyz" and part != "raw":  # that takes no time
            names.add(f"{part}_cells")
    return names


def kept_parts(config: Cells, frozen: Tree, batch: Batch) -> dict[str, Array]:
    """Returns what takes time of the features: maps of layers, and cells of the rest.

    Args:
        config: names the set.
        frozen: holds "backbone" where the set has a network.
        batch: holds what the parts are made from.
    """
    found, names = {}, kept_names(config)
    for part in FEATURE_SETS[config.features]:
        if part in IMAGES:
            maps = _maps(config, frozen, IMAGES[part](config, batch))
            layers = zip(config.layers, maps, strict=True)
            found |= {f"{part}_{layer}": x for layer, x in layers}
        elif f"{part}_cells" in names:
            found[f"{part}_cells"] = MAKERS[part](config, batch)
    return found


def field_of(config: Cells, part: str) -> str:
    """Returns the batch field that a part of a feature set is made from."""
    if part == "fpfh" and config.fpfh == "open3d":
        return "extras.fpfh"
    return "rgb" if part == "rgb" else "xyz"


def rgb_cells(config: Cells, frozen: Tree, batch: Batch) -> Array:
    """Returns network features of the image; 1536 of wide_resnet50."""
    return _pooled(config, _maps(config, frozen, batch.rgb))


def depth_image(config: Cells, batch: Batch) -> Array:
    """Returns z in metres, three times over, which the network sees as it is."""
    # The network's input is normalised; undone here, as the release has it.
    return unnormalised(_z(batch), extractor(config.backbone).inputs)


def raw_cells(config: Cells, batch: Batch) -> Array:
    """Returns the z-map cut into runs of successive pixels: 64 at 224 pixels.

    As in the release a cell is no square block: its pixels follow on each other in the
    order of memory.
    """
    _cell_side(config, batch)
    return _z(batch).reshape(batch.xyz.shape[0], config.cells, config.cells, -1)


def hog_cells(config: Cells, batch: Batch) -> Array:
    """Returns histograms of 8 gradient directions of z in every cell."""
    return hog(_z(batch), cell=_cell_side(config, batch), orientations=8)


def sift_cells(config: Cells, batch: Batch) -> Array:
    """Returns dense SIFT of z, averaged over the cells: 128 numbers."""
    return cell_pool(dense_sift(_z(batch)), config.cells)


def fpfh_cells(config: Cells, batch: Batch) -> Array:
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


# What the network sees of a sample, by the part of a feature set.
IMAGES: Mapping[str, Callable[[Cells, Batch], Array]] = {
    "rgb": lambda config, batch: batch.rgb,
    "depth": depth_image,
}
MAKERS: Mapping[str, Callable[[Cells, Batch], Array]] = {
    "raw": raw_cells,
    "hog": hog_cells,
    "sift": sift_cells,
    "fpfh": fpfh_cells,
}


def _maps(config: Cells, frozen: Tree, image: Array) -> tuple[Array, ...]:
    """Returns the network's maps of the layers."""
    return feature_maps(frozen["backbone"], config.backbone, image, config.layers)


def _pooled(config: Cells, maps: Sequence[Array]) -> Array:
    """Returns the maps of the layers, each averaged over the cells, side by side."""
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
