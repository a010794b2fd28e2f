"""BTF: a bank of hand-made 3-D descriptors, alone or beside image features.

E. Horwitz, Y. Hoshen, "Back to the Feature: Classical 3D Features are (Almost) All You
Need for 3D Anomaly Detection", CVPR Workshops 2023, arXiv 2203.05550. Reference: the
authors' release eliahuhorwitz/3D-ADS, seven feature sets side by side. What differs is
in the card `docs/systems/btf.md`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, Gather, Scores, State, System, Tree
from ad3d_jax.features.extractors import BACKBONES, feature_maps, init_backbone
from ad3d_jax.features.patches import as_rows, cell_pool
from ad3d_jax.features.resnet import IMAGENET_MEAN, IMAGENET_STD
from ad3d_jax.ops import coreset, knn
from ad3d_jax.ops.blur import blur_8bit, gaussian_blur
from ad3d_jax.ops.fpfh import fpfh
from ad3d_jax.ops.hog import hog
from ad3d_jax.ops.sift import dense_sift
from ad3d_jax.systems import patchcore
from ad3d_jax.systems.choices import check_choices


@dataclass(frozen=True)
class Config:
    """Structure of the system; a change of any field compiles anew."""

    features: str = "rgb_fpfh"  # or rgb | depth | raw | hog | sift | fpfh
    backbone: str = "wide_resnet50"  # of rgb, depth and rgb_fpfh; "" where none is used
    layers: tuple[str, ...] = ("layer2", "layer3")
    fpfh: str = "jnp"  # jnp | open3d, which the recipe has made
    cells: int = 28  # a side; a patch is a cell
    fraction: float = 0.1  # of the training patches that the bank keeps
    precision: str = "float16"  # of their choice: float16 (release) | float32
    support: int = 3  # rows that the image score's re-weighting looks at
    blur: str = "8bit"  # 8bit | gaussian
    blur_radius: float = 4.0  # standard deviation, pixels
    mode: str = "exact"  # of the search: exact | fast
    match: bool = False  # say which training patch the worst patch matched
    chunk_bytes: int = knn.CHUNK_BYTES  # memory of the rows compared at a time


HYPER: Mapping[str, float] = {}
FEATURE_SETS = {
    **{name: (name,) for name in ("rgb", "depth", "raw", "hog", "sift", "fpfh")},
    "rgb_fpfh": ("rgb", "fpfh"),
}
BLURS = ("8bit", "gaussian")
FPFH_MAKERS = ("jnp", "open3d")


def btf(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system.

    Raises:
        ValueError: a field of the configuration is wrong.
    """
    check(config)
    bank = bank_of(config)
    parts = FEATURE_SETS[config.features]
    needs = tuple(field_of(config, part) for part in parts)
    phase = Gather(
        name="bank",
        emit=lambda key, state, batch: {
            "rows": as_rows(cell_features(config, state.frozen, batch))
        },
        absorb=partial(patchcore.absorb, bank),
        select=coreset.greedy(
            bank.fraction, bank.start, bank.projection, config.precision
        ),
        plan=partial(patchcore.plan, bank),
    )
    # Cells that the recipe has made do not tell the size of the map.
    size = ("xyz",) if needs == ("extras.fpfh",) else ()
    return System(
        name="btf",
        needs_fit=needs,
        needs_score=(*size, *needs),
        init=partial(init, config),
        phases=(phase,),
        score=partial(score, config),
        sharded=("bank",),
    )


def bank_of(config: Config) -> patchcore.Config:
    """Returns the bank as PatchCore describes it: the line of `ind_knn_ad`."""
    return patchcore.Config(
        fraction=config.fraction,
        start="first",
        projection="sparse",
        distance="l2",
        reweight="ind_knn",
        support=config.support,
        mode=config.mode,
        match=config.match,
        chunk_bytes=config.chunk_bytes,
    )


def check(config: Config) -> None:
    """Raises ValueError where a field of the configuration is wrong."""
    patchcore.check(bank_of(config))
    choices = {
        "features": tuple(FEATURE_SETS),
        "fpfh": FPFH_MAKERS,
        "precision": coreset.PRECISIONS,
        "blur": BLURS,
    }
    if has_network(config):
        choices["backbone"] = BACKBONES
    check_choices(config, choices)
    if config.cells < 1 or config.blur_radius <= 0:
        raise ValueError(
            "model.cells and model.blur_radius: expected more than 0, found "
            f"{config.cells} and {config.blur_radius}"
        )


def has_network(config: Config) -> bool:
    """Returns whether the feature set has image features."""
    return not {"rgb", "depth"}.isdisjoint(FEATURE_SETS.get(config.features, ()))


def init(config: Config, key: Array, batch: Batch) -> State:
    """Returns the state with a random network, where there is one, and an empty bank.

    Raises:
        ValueError: the picture's size does not suit the feature set.
    """
    frozen = {}
    if has_network(config):
        last = max(config.layers, default="")
        frozen["backbone"] = init_backbone(key, config.backbone, last)
    grid = jax.eval_shape(partial(cell_features, config), frozen, batch)
    return State(
        frozen=frozen,
        memory={
            "bank": knn.empty(grid.shape[-1], config.chunk_bytes),
            "origin": np.zeros(0, np.int32),
        },
    )


def score(config: Config, key: Array, state: State, batch: Batch) -> Scores:
    """Returns the distances to the bank, enlarged and blurred, and the worst one.

    The worst distance counts less where what it matched is itself far from its own
    neighbours in the bank (`reweight.image_score`, "ind_knn").
    """
    del key
    size = (batch.xyz if batch.rgb is None else batch.rgb).shape[1:3]
    grid = cell_features(config, state.frozen, batch)
    scores = patchcore.compare(bank_of(config), state, grid, size)
    blur = {"8bit": blur_8bit, "gaussian": gaussian_blur}[config.blur]
    return scores._replace(map=blur(scores.map, config.blur_radius))


# --- Features -------------------------------------------------------------------------


def cell_features(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns the features of all cells, [B,cells,cells,D] float32.

    Parts of a set lie side by side as they are: neither is normalised or weighed, so
    that FPFH, whose entries reach 200, decides most distances (sheet §3.4).

    Args:
        config: names the set.
        frozen: holds "backbone" where the set has a network.
        batch: holds what `System.needs_fit` names.

    Raises:
        ValueError: the picture or the precomputed cells do not fit `config.cells`.
    """
    parts = FEATURE_SETS[config.features]
    cells = [MAKERS[part](config, frozen, batch) for part in parts]
    return jnp.concatenate(cells, axis=-1)


def field_of(config: Config, part: str) -> str:
    """Returns the batch field that a part of a feature set is made from."""
    if part == "fpfh" and config.fpfh == "open3d":
        return "extras.fpfh"
    return "rgb" if part == "rgb" else "xyz"


def rgb_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns network features of the picture; 1536 of wide_resnet50."""
    return _network_cells(config, frozen, batch.rgb)


def depth_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns network features of z in metres, three times over, not normalised."""
    # The network's input is normalised; undone here, as the release has it.
    std = np.float32(IMAGENET_STD).reshape(1, 1, 1, 3)
    picture = _z(batch) * std + np.float32(IMAGENET_MEAN).reshape(1, 1, 1, 3)
    return _network_cells(config, frozen, picture)


def raw_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns the z-map cut into runs of successive pixels: 64 at 224 pixels.

    As in the release a cell is no square block: its pixels follow on each other in the
    order of memory.
    """
    del frozen
    _cell_side(config, batch)
    return _z(batch).reshape(batch.xyz.shape[0], config.cells, config.cells, -1)


def hog_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns histograms of 8 gradient directions of z in every cell."""
    del frozen
    return hog(_z(batch), cell=_cell_side(config, batch), orientations=8)


def sift_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns dense SIFT of z, averaged over the cells: 128 numbers."""
    del frozen
    return cell_pool(dense_sift(_z(batch)), config.cells)


def fpfh_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns point feature histograms averaged over the cells: 33 numbers.

    A point counts if none of its coordinates is 0, as in the release.
    """
    del frozen
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


MAKERS: Mapping[str, Callable[[Config, Tree, Batch], Array]] = {
    "rgb": rgb_cells,
    "depth": depth_cells,
    "raw": raw_cells,
    "hog": hog_cells,
    "sift": sift_cells,
    "fpfh": fpfh_cells,
}


def _network_cells(config: Config, frozen: Tree, picture: Array) -> Array:
    """Returns the maps of the layers, each averaged over the cells, side by side."""
    maps = feature_maps(frozen["backbone"], config.backbone, picture, config.layers)
    return jnp.concatenate([cell_pool(x, config.cells) for x in maps], axis=-1)


def _z(batch: Batch) -> Array:
    return batch.xyz[..., 2:]


def _cell_side(config: Config, batch: Batch) -> int:
    """Returns the side of a cell in pixels.

    Raises:
        ValueError: the cells do not divide the picture into squares.
    """
    height, width = batch.xyz.shape[1:3]
    if height != width or height % config.cells:
        raise ValueError(
            f"model.features={config.features} needs a square picture whose side is a "
            f"multiple of model.cells = {config.cells}, found {height} x {width}"
        )
    return height // config.cells
