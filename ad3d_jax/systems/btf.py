"""BTF: a bank of hand-made 3-D descriptors, alone or beside image features.

E. Horwitz, Y. Hoshen, "Back to the Feature: Classical 3D Features are (Almost) All You
Need for 3D Anomaly Detection", CVPR Workshops 2023, arXiv 2203.05550. Reference: the
authors' release eliahuhorwitz/3D-ADS, seven feature sets side by side. What differs is
in the card `docs/systems/btf.md`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, State, System, Tree
from ad3d_jax.features.extractors import BACKBONES, feature_maps
from ad3d_jax.features.patches import cell_pool
from ad3d_jax.features.resnet import IMAGENET_MEAN, IMAGENET_STD
from ad3d_jax.ops import coreset, reweight
from ad3d_jax.ops.blur import blur_8bit, gaussian_blur
from ad3d_jax.ops.fpfh import fpfh
from ad3d_jax.ops.hog import hog
from ad3d_jax.ops.sift import dense_sift
from ad3d_jax.systems import banks
from ad3d_jax.systems.backbones import init_frozen, pretrained_parts
from ad3d_jax.systems.fields import at_least, one_of
from ad3d_jax.systems.modalities import map_size

HYPER: Mapping[str, float] = {}
FEATURE_SETS = {
    **{name: (name,) for name in ("rgb", "depth", "raw", "hog", "sift", "fpfh")},
    "rgb_fpfh": ("rgb", "fpfh"),
}
BLURS = {"8bit": blur_8bit, "gaussian": gaussian_blur}


def has_network(features: str) -> bool:
    """Returns whether the feature set has image features."""
    return not {"rgb", "depth"}.isdisjoint(FEATURE_SETS[features])


@dataclass(frozen=True)
class Config(banks.Bank):
    """Structure of the system; a change of any field compiles anew.

    The bank is that of `ind_knn_ad`, from which the release has it.
    """

    start: str = one_of(*coreset.STARTS, default="first")
    projection: str = one_of(*coreset.PROJECTIONS, default="sparse")
    precision: str = one_of(*coreset.PRECISIONS, default="float16")
    distance: str = one_of("l2", "squared")
    reweight: str = one_of(*reweight.KINDS, default="ind_knn")
    support: int = at_least(1, 3)
    features: str = one_of(*FEATURE_SETS, default="rgb_fpfh")
    # Of rgb, depth and rgb_fpfh; "" where none is used.
    backbone: str = one_of(*BACKBONES, "", default="wide_resnet50")
    layers: tuple[str, ...] = ("layer2", "layer3")
    source: str = "racm_in1k"  # set of weights that is accepted, see features.known
    fpfh: str = one_of("jnp", "open3d")  # open3d: the recipe has made it
    cells: int = at_least(1, 28)  # a side; a patch is a cell
    blur: str = one_of(*BLURS)
    blur_radius: float = 4.0  # standard deviation, pixels

    def __post_init__(self):
        super().__post_init__()
        if has_network(self.features) and not self.backbone:
            raise ValueError(f"model.backbone: expected one of {BACKBONES}, found ''")
        if self.blur_radius <= 0:
            raise ValueError(
                f"model.blur_radius: expected more than 0, found {self.blur_radius}"
            )


def btf(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes."""
    network = has_network(config.features)
    needs = tuple(field_of(config, part) for part in FEATURE_SETS[config.features])
    # Cells that the recipe has made do not tell the size of the map.
    size = ("xyz",) if needs == ("extras.fpfh",) else ()

    def features(state, batch):
        return cell_features(config, state.frozen, batch)

    def init(key, batch):
        state = State(frozen=init_frozen(config, key) if network else {})
        return banks.with_empty_bank(config, state, features, batch)

    def score(key, state, batch):
        """Returns the distances to the bank, enlarged and blurred, and the worst one.

        The worst distance counts less where what it matched is itself far from its own
        neighbours in the bank (`reweight.image_score`, "ind_knn").
        """
        grid = features(state, batch)
        scores = banks.compare(config, state, grid, map_size(batch))
        return scores._replace(map=BLURS[config.blur](scores.map, config.blur_radius))

    return System(
        name="btf",
        needs_fit=needs,
        needs_score=(*size, *needs),
        init=init,
        phases=(banks.bank_phase(config, features),),
        score=score,
        pretrained=pretrained_parts(config) if network else (),
        sharded=("bank",),
    )


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
        ValueError: the image or the precomputed cells do not fit `config.cells`.
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
    """Returns network features of the image; 1536 of wide_resnet50."""
    return _network_cells(config, frozen, batch.rgb)


def depth_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns network features of z in metres, three times over, not normalised."""
    # The network's input is normalised; undone here, as the release has it.
    std = np.float32(IMAGENET_STD).reshape(1, 1, 1, 3)
    image = _z(batch) * std + np.float32(IMAGENET_MEAN).reshape(1, 1, 1, 3)
    return _network_cells(config, frozen, image)


def raw_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns the z-map cut into runs of successive pixels: 64 at 224 pixels.

    As in the release a cell is no square block: its pixels follow on each other in the
    order of memory.
    """
    _cell_side(config, batch)
    return _z(batch).reshape(batch.xyz.shape[0], config.cells, config.cells, -1)


def hog_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns histograms of 8 gradient directions of z in every cell."""
    return hog(_z(batch), cell=_cell_side(config, batch), orientations=8)


def sift_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns dense SIFT of z, averaged over the cells: 128 numbers."""
    return cell_pool(dense_sift(_z(batch)), config.cells)


def fpfh_cells(config: Config, frozen: Tree, batch: Batch) -> Array:
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


MAKERS: Mapping[str, Callable[[Config, Tree, Batch], Array]] = {
    "rgb": rgb_cells,
    "depth": depth_cells,
    "raw": raw_cells,
    "hog": hog_cells,
    "sift": sift_cells,
    "fpfh": fpfh_cells,
}


def _network_cells(config: Config, frozen: Tree, image: Array) -> Array:
    """Returns the maps of the layers, each averaged over the cells, side by side."""
    maps = feature_maps(frozen["backbone"], config.backbone, image, config.layers)
    return jnp.concatenate([cell_pool(x, config.cells) for x in maps], axis=-1)


def _z(batch: Batch) -> Array:
    return batch.xyz[..., 2:]


def _cell_side(config: Config, batch: Batch) -> int:
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
