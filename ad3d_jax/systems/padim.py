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

from ad3d_jax.base import Gather, Plan, Scores, State, System, Tree
from ad3d_jax.features.extractors import feature_maps
from ad3d_jax.features.modalities import needed_fields
from ad3d_jax.features.patches import as_rows, replicate_patches
from ad3d_jax.ops import gaussian
from ad3d_jax.ops.blur import gaussian_blur
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.systems import backbones
from ad3d_jax.systems.modalities import map_size

HYPER: Mapping[str, float] = {}


@dataclass(frozen=True)
class Config(backbones.Backboned):
    """Structure of the system; a change of any field compiles anew."""

    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    dimensions: int = 550  # channels that are kept of a modality: 100 for resnet18
    channel_seed: int = 1024  # of Python's generator, which draws the channels
    epsilon: float = 0.01  # on the diagonal; anomalib has 0.01001
    sigma: float = 4.0  # of the map's Gaussian, pixels
    block_bytes: int = gaussian.BLOCK_BYTES  # memory of the positions fitted at a time


def padim(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system.

    Raises:
        ValueError: a field of the configuration is wrong.
    """
    needs = needed_fields(config.modalities)
    gaussian.check(2, config.epsilon)
    embed = partial(backbones.features, config, chosen_channels(config))

    def init(key, batch):
        state = State(frozen=backbones.init_frozen(config, key))
        _, height, width, dimensions = jax.eval_shape(embed, state, batch).shape
        gaussians = gaussian.empty(height * width, dimensions)
        return state._replace(memory={"gaussians": gaussians})

    def absorb(key, state, rows):
        fitted = gaussian.fit(rows["rows"], config.epsilon, config.block_bytes)
        return state._replace(memory={"gaussians": fitted})

    def score(key, state, batch):
        """Returns smoothed Mahalanobis distances and their maximum."""
        grid = embed(state, batch)
        distance = gaussian.mahalanobis(state.memory["gaussians"], as_rows(grid))
        map = distance.reshape(*grid.shape[:3], 1)
        map = gaussian_blur(resize_bilinear(map, map_size(batch)), config.sigma)
        return Scores(map, image=jnp.max(map, axis=(1, 2, 3)))

    phase = Gather(
        name="gaussians",
        emit=lambda key, state, batch: {"rows": as_rows(embed(state, batch))},
        absorb=absorb,
        plan=partial(plan, config),
    )
    return System(
        name="padim",
        needs_fit=needs,
        needs_score=needs,
        init=init,
        phases=(phase,),
        score=score,
        pretrained=backbones.pretrained_parts(config),
    )


def chosen_channels(config: Config):
    """Returns the function of maps that gives the kept channels at every position."""
    total = total_channels(config)
    channels = channel_subset(total, config.dimensions, config.channel_seed)
    return lambda maps: jnp.take(replicate_patches(maps), jnp.array(channels), axis=-1)


def total_channels(config: Config) -> int:
    """Returns how many channels the layers have together."""

    def maps(rgb):
        # The key is made here, so that no device is looked for.
        backbone = backbones.init_frozen(config, jax.random.key(0))["backbone"]
        return feature_maps(backbone, config.backbone, rgb, config.layers)

    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(maps, image)
    return sum(x.shape[-1] for x in shapes)


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
