"""CPMF: network features of rendered views beside point histograms, and a bank of both.

Y. Cao, X. Xu, W. Shen, "Complementary Pseudo Multimodal Feature for Point Cloud Anomaly
Detection", Pattern Recognition 156 (2024), arXiv 2303.13194. Reference: the authors'
release caoyunkang/CPMF, whose bank is BTF's. What differs is in the card
`docs/systems/cpmf.md`. The views are made by the recipe (`data_pipelines`).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, State, System, Tree
from ad3d_jax.features.extractors import BACKBONES, feature_maps
from ad3d_jax.features.patches import cell_pool
from ad3d_jax.ops import coreset, reweight
from ad3d_jax.ops.fpfh import fpfh
from ad3d_jax.ops.resize import bilinear_at
from ad3d_jax.systems import backbones, banks
from ad3d_jax.systems.btf import BLURS
from ad3d_jax.systems.fields import Range, at_least, one_of, within
from ad3d_jax.systems.modalities import map_size

# Rendered views, histograms of points, or both.
FEATURES = {"views_fpfh": ("views", "fpfh"), "views": ("views",), "fpfh": ("fpfh",)}
VIEWS = "extras.views", "extras.view_positions"
POINTS_AT_A_TIME = 512  # whose features in all views are in memory, 25 MB of resnet18
LEAST_LENGTH = 1e-12


@dataclass(frozen=True)
class Config(banks.Bank):
    """Structure of the system; a change of any field compiles anew.

    The bank is BTF's, that of `ind_knn_ad`.
    """

    start: str = one_of(*coreset.STARTS, default="first")
    projection: str = one_of(*coreset.PROJECTIONS, default="sparse")
    precision: str = one_of(*coreset.PRECISIONS, default="float16")
    distance: str = one_of("l2", "squared")
    reweight: str = one_of(*reweight.KINDS, default="ind_knn")
    support: int = at_least(1, 3)
    features: str = one_of(*FEATURES)
    views: int = within(Range(1, 27, whole=True), 27)  # the recipe's first so many
    backbone: str = one_of(*BACKBONES, "", default="resnet18")  # "" for fpfh alone
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    source: str = "tv_in1k"  # set of weights that is accepted, see features.known
    cells: int = at_least(1, 28)  # a side; a patch is a cell
    blur: str = one_of(*BLURS)
    blur_radius: float = within(Range(0, open=True), 4.0)  # deviation, pixels

    def __post_init__(self):
        super().__post_init__()
        if "views" in FEATURES[self.features] and not self.backbone:
            raise ValueError(f"model.backbone: expected one of {BACKBONES}, found ''")


def cpmf(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes."""
    network = "views" in FEATURES[config.features]
    needs = ("xyz", *VIEWS) if network else ("xyz",)

    def cells(state, batch):
        return cell_features(config, state.frozen, batch)

    def cached(state, batch):
        return batch.extras["cells"]

    def init(key, batch):
        state = State(frozen=backbones.init_frozen(config, key) if network else {})
        return banks.with_empty_bank(config, state, cells, batch)

    def score(key, state, batch):
        """Returns the distances to the bank, enlarged and blurred, and the worst one.

        The worst distance counts less where what it matched is itself far from its own
        neighbours in the bank (`reweight.image_score`, "ind_knn").
        """
        grid = cached(state, batch)
        scores = banks.compare(config, state, grid, map_size(batch))
        return scores._replace(map=BLURS[config.blur](scores.map, config.blur_radius))

    return System(
        name="cpmf",
        needs_fit=needs,
        needs_score=needs,
        init=init,
        phases=(banks.bank_phase(config, cached),),
        score=score,
        pretrained=backbones.pretrained_parts(config) if network else (),
        cache=lambda state, batch: {"cells": cells(state, batch)},
        sharded=("bank",),
    )


# --- Features -------------------------------------------------------------------------


def cell_features(config: Config, frozen: Tree, batch: Batch) -> Array:
    """Returns the features of all cells, [B,cells,cells,D] float32.

    A point counts if none of its coordinates is 0, as in the release.

    Args:
        config: names the parts.
        frozen: holds "backbone" where views are among them.
        batch: holds what `System.needs_fit` names.

    Raises:
        ValueError: there are fewer views than the configuration asks for.
    """
    there = jnp.all(batch.xyz != 0, axis=-1, keepdims=True)
    parts = []
    if "views" in FEATURES[config.features]:
        views, positions = _asked(config, batch)

        def describe(sample):
            return view_features(config, frozen["backbone"], *sample)

        # One sample at a time: the network sees all of its views as one batch.
        parts.append(jax.lax.map(describe, (views, positions, there)))
    if "fpfh" in FEATURES[config.features]:
        # The release turns the sensor's axes first, and with them the normals' signs.
        axes = np.float32([1, -1, -1]).reshape(1, 1, 1, 3)
        parts.append(fpfh(batch.xyz * axes, there))
    return cell_pool(joined(parts, there), config.cells)


def joined(parts: list[Array], there: Array) -> Array:
    """Returns parts [B,H,W,d], each of length 1, side by side; 0 where is no point."""
    vectors = []
    for part in parts:
        length = jnp.linalg.norm(part, axis=-1, keepdims=True)
        vectors.append(part / jnp.maximum(length, LEAST_LENGTH))
    return jnp.where(there, jnp.concatenate(vectors, axis=-1), 0.0)


def view_features(
    config: Config, backbone: Tree, views: Array, positions: Array, there: Array
) -> Array:
    """Returns the mean over the views of what the network sees of each point, [H,W,D].

    Float32, of one sample; 0 where there is no point.

    Args:
        config: names network and layers.
        backbone: its parameters.
        views: [V,S,S,1 or 3] uint8.
        positions: [V,H,W,2] int16, column and row of each pixel's point in each view.
        there: [H,W,1] bool, which pixels have a point.
    """
    size = views.shape[1:3]
    rgb = jnp.broadcast_to(views.astype(jnp.float32) / 255, (*views.shape[:3], 3))
    maps = feature_maps(backbone, config.backbone, rgb, config.layers)
    pixels = there.size
    positions = positions.reshape(len(views), pixels, 2).astype(jnp.int32)
    chunk = min(POINTS_AT_A_TIME, pixels)
    # Points first; what fills up the last chunk lies behind all pixels.
    length = -(-pixels // chunk) * chunk
    (order,) = jnp.nonzero(there.reshape(-1), size=length, fill_value=pixels)

    def describe(number, found):
        points = jax.lax.dynamic_slice_in_dim(order, number * chunk, chunk)
        places = jnp.take(positions, points, axis=1, mode="clip")
        sampled = [jax.vmap(bilinear_at, (0, 0, None))(x, places, size) for x in maps]
        mean = jnp.mean(jnp.concatenate(sampled, axis=-1), axis=0)
        return found.at[points].set(mean, mode="drop")

    chunks = -(-jnp.sum(there, dtype=jnp.int32) // chunk)
    nothing = jnp.zeros((pixels, sum(x.shape[-1] for x in maps)))
    found = jax.lax.fori_loop(0, chunks, describe, nothing)
    return found.reshape(*there.shape[:2], -1)


def _asked(config: Config, batch: Batch) -> tuple[Array, Array]:
    """Returns the views and positions that the configuration asks for."""
    views, positions = batch.extras["views"], batch.extras["view_positions"]
    if views.shape[1] < config.views:
        raise ValueError(
            f"model.views: expected at most the {views.shape[1]} views that the recipe "
            f"makes, found {config.views}"
        )
    return views[:, : config.views], positions[:, : config.views]
