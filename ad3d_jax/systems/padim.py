"""PaDiM: one Gaussian a position over multi-scale features of a frozen network.

T. Defard, A. Setkov, A. Loesch, R. Audigier, "PaDiM: a Patch Distribution Modeling
Framework for Anomaly Detection and Localization", ICPR workshops 2021, arXiv
2011.08785. Reference: `xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master`,
whose seed and channels are the defaults. What differs is in the card
`docs/systems/padim.md`.
"""

import random
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Scores, State, Sum, System
from ad3d_jax.features.extractors import feature_maps
from ad3d_jax.features.modalities import needed_fields
from ad3d_jax.features.patches import as_rows, replicate_patches
from ad3d_jax.ops import gaussian
from ad3d_jax.ops.blur import BORDERS, gaussian_blur
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.systems import backbones
from ad3d_jax.systems.fields import Range, at_least, one_of, within
from ad3d_jax.systems.modalities import map_size


@dataclass(frozen=True)
class Config(backbones.Backboned):
    """Structure of the system; a change of any field compiles anew."""

    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    # Channels that are kept of a modality, 1 to all; 100 for resnet18.
    dimensions: int = within(Range(whole=True), 550)
    # Of Python's generator, which draws the channels.
    channel_seed: int = at_least(0, 1024)
    # On the diagonal; anomalib has 0.01001.
    epsilon: float = within(Range(0, open=True), 0.01)
    sigma: float = 4.0  # of the map's Gaussian, pixels
    border: str = one_of(*BORDERS)  # of that Gaussian; anomalib's is mirror
    block_bytes: int = gaussian.BLOCK_BYTES  # memory of the positions fitted at a time


def padim(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes.

    Raises:
        ValueError: channels are asked for that the layers do not have, or epsilon is
            not above 0.
    """
    needs = needed_fields(config.modalities)
    gaussian.check(2, config.epsilon)
    embed = partial(backbones.features, config, chosen_channels(config))

    def init(key, batch):
        state = State(frozen=backbones.init_frozen(config, key))
        _, height, width, dimensions = jax.eval_shape(embed, state, batch).shape
        gaussians = gaussian.empty(height * width, dimensions)
        return state._replace(memory={"gaussians": gaussians})

    def sum_rows(key, state, batch):
        """Returns how many samples there are, and the sum of their features."""
        rows = as_rows(embed(state, batch))
        total = jnp.einsum("b,bpd->pd", batch.weight, rows, precision="highest")
        return {"count": jnp.sum(batch.weight), "total": total}

    def keep_mean(key, state, sums):
        gaussian.check(sums["count"], config.epsilon)
        mean = np.float32(sums["total"] / sums["count"])
        gaussians = state.memory["gaussians"]._replace(mean=mean)
        return state._replace(memory={"gaussians": gaussians})

    def sum_moments(key, state, batch):
        """Returns how many samples there are, and the sum of their moments."""
        rows, mean = as_rows(embed(state, batch)), state.memory["gaussians"].mean
        moments = gaussian.moments(rows, mean, batch.weight)
        return {"count": jnp.sum(batch.weight), "moments": moments}

    def keep_gaussians(key, state, sums):
        mean, count = state.memory["gaussians"].mean, sums["count"]
        numbers = count, config.epsilon, config.block_bytes
        gaussians = gaussian.fit(mean, sums["moments"], *numbers)
        return state._replace(memory={"gaussians": gaussians})

    def score(key, state, batch):
        """Returns smoothed Mahalanobis distances and their maximum."""
        grid = embed(state, batch)
        distance = gaussian.mahalanobis(state.memory["gaussians"], as_rows(grid))
        map = distance.reshape(*grid.shape[:3], 1)
        map = resize_bilinear(map, map_size(batch))
        map = gaussian_blur(map, config.sigma, border=config.border)
        return Scores(map, image=jnp.max(map, axis=(1, 2, 3)))

    return System(
        name="padim",
        needs_fit=needs,
        needs_score=needs,
        init=init,
        phases=(
            Sum("means", sum_rows, keep_mean),
            Sum("covariances", sum_moments, keep_gaussians),
        ),
        score=score,
        pretrained=backbones.pretrained_parts(config),
        cache=partial(backbones.cached_maps, config),
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

    # Of a size that all networks take; nothing is computed.
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
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
