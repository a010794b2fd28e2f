"""PaDiM: one Gaussian a position over multi-scale features of a frozen network.

T. Defard, A. Setkov, A. Loesch, R. Audigier, "PaDiM: a Patch Distribution Modeling
Framework for Anomaly Detection and Localization", ICPR workshops 2021, arXiv
2011.08785. Reference: `xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master`,
whose seed and channels are the defaults. What differs is in the card
`docs/systems/padim.md`.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, Batch, Gather, Plan, Scores, State, System, Tree
from ad3d_jax.features.extractors import feature_maps, init_backbone
from ad3d_jax.features.modalities import needed_fields, patch_features
from ad3d_jax.features.patches import as_rows, replicate_patches
from ad3d_jax.ops import gaussian
from ad3d_jax.ops.blur import gaussian_blur
from ad3d_jax.ops.resize import resize_bilinear


@dataclass(frozen=True)
class Config:
    """Structure of the system; a change of any field compiles anew."""

    modalities: tuple[str, ...] = ("rgb",)  # depth is our extension
    backbone: str = "wide_resnet50"
    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    dimensions: int = 550  # channels that are kept of a modality: 100 for resnet18
    channel_seed: int = 1024  # of Python's generator, which draws the channels
    epsilon: float = 0.01  # on the diagonal; anomalib has 0.01001
    sigma: float = 4.0  # of the map's Gaussian, pixels
    block_bytes: int = gaussian.BLOCK_BYTES  # memory of the positions fitted at a time


HYPER: Mapping[str, float] = {}


def padim(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system.

    Raises:
        ValueError: a field of the configuration is wrong.
    """
    needs = needed_fields(config.modalities)
    gaussian.check(2, config.epsilon)
    channels = channel_subset(
        total_channels(config), config.dimensions, config.channel_seed
    )
    embed = partial(features, config, channels)
    phase = Gather(
        name="gaussians",
        emit=lambda key, state, batch: {"rows": as_rows(embed(state, batch))},
        absorb=partial(absorb, config),
        plan=partial(plan, config),
    )
    return System(
        name="padim",
        needs_fit=needs,
        needs_score=needs,
        init=partial(init, config, embed),
        phases=(phase,),
        score=partial(score, config, embed),
    )


def total_channels(config: Config) -> int:
    """Returns how many channels the layers have together."""

    def maps(key, rgb):
        backbone = init_backbone(key, config.backbone, deepest(config))
        return feature_maps(backbone, config.backbone, rgb, config.layers)

    picture = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(maps, jax.random.key(0), picture)
    return sum(x.shape[-1] for x in shapes)


def deepest(config: Config) -> str:
    """Returns the deepest of the layers, whose names sort by depth."""
    return max(config.layers, default="")


def channel_subset(total: int, count: int, seed: int) -> tuple[int, ...]:
    """Returns the channels that are kept, in the order in which they are drawn.

    As `random.sample(range(total), count)` of Python after `random.seed(seed)`.

    Raises:
        ValueError: more channels are asked for than there are, or none.
    """
    if not 1 <= count <= total:
        raise ValueError(
            f"model.dimensions: expected 1 to {total} channels of the layers together, "
            f"found {count}"
        )
    return tuple(random.Random(seed).sample(range(total), count))


def init(config: Config, embed, key: Array, batch: Batch) -> State:
    """Returns the state before the fit, the backbone random."""
    backbone = init_backbone(key, config.backbone, deepest(config))
    state = State(frozen={"backbone": backbone})
    _, height, width, dimensions = jax.eval_shape(embed, state, batch).shape
    gaussians = gaussian.empty(height * width, dimensions)
    return state._replace(memory={"gaussians": gaussians})


def features(
    config: Config, channels: tuple[int, ...], state: State, batch: Batch
) -> Array:
    """Returns the kept channels at every position, [B,h,w,D] float32."""

    def embed(maps):
        return jnp.take(replicate_patches(maps), jnp.array(channels), axis=-1)

    return patch_features(
        state.frozen["backbone"],
        config.backbone,
        batch,
        config.modalities,
        config.layers,
        embed,
    )


# --- The phase ------------------------------------------------------------------------


def absorb(config: Config, key: Array, state: State, rows: Tree) -> State:
    """Returns the state with a Gaussian fitted at every position."""
    del key
    fitted = gaussian.fit(rows["rows"], config.epsilon, config.block_bytes)
    return state._replace(memory={"gaussians": fitted})


def plan(config: Config, state: State, shapes: Tree) -> Plan:
    """Returns what the fit takes; every device holds all Gaussians.

    Raises:
        ValueError: there are too few samples.
    """
    del state
    count, positions, dimensions = shapes["rows"].shape
    gaussian.check(count, config.epsilon)
    block = gaussian.block_positions(count, positions, dimensions, config.block_bytes)
    kept = gaussian.numbers(count, positions, dimensions)
    return Plan(
        rows=count * positions,
        kept=positions,
        dimensions=dimensions,
        bank_bytes=4 * kept,
        split_bytes=0,
        whole_bytes=4 * kept + config.block_bytes,
        host_bytes=4 * (kept + count * positions * dimensions),
        chunk=block * count,
    )


# --- Scoring --------------------------------------------------------------------------


def score(config: Config, embed, key: Array, state: State, batch: Batch) -> Scores:
    """Returns smoothed Mahalanobis distances and their maximum."""
    del key
    grid = embed(state, batch)
    distance = gaussian.mahalanobis(state.memory["gaussians"], as_rows(grid))
    size = getattr(batch, needed_fields(config.modalities)[0]).shape[1:3]
    map = resize_bilinear(distance.reshape(*grid.shape[:3], 1), size)
    map = gaussian_blur(map, config.sigma)
    return Scores(map=map, image=jnp.max(map, axis=(1, 2, 3)))
