"""SimpleNet: a discriminator of frozen features against the same features with noise.

Z. Liu, Y. Zhou, Y. Xu, Z. Wang, "SimpleNet: A Simple Network for Image Anomaly
Detection and Localization", CVPR 2023, arXiv 2303.15140. Reference: the authors'
release, whose constants are the defaults. What differs is in the card
`docs/systems/simplenet.md`; above all the last epoch counts, never the best one on the
test set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import optax

from ad3d_jax.base import Array, Scores, State, System, Train, Update
from ad3d_jax.features.modalities import embed_maps, needed_fields
from ad3d_jax.features.patches import patchcore_patches
from ad3d_jax.nn.batch_norm import fold_modules
from ad3d_jax.nn.feature_discriminator import Adaptor, FeatureDiscriminator
from ad3d_jax.nn.scope import init_networks, scoring, training
from ad3d_jax.ops.blur import gaussian_blur
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.systems.backbones import (
    Backboned,
    cached_maps,
    init_frozen,
    local,
    pretrained_parts,
)
from ad3d_jax.systems.fields import at_least, numbers
from ad3d_jax.systems.modalities import map_size

HYPER: Mapping[str, float] = {
    "noise": 0.015,
    "margin": 0.5,
    "learning_rate_adaptor": 1e-4,
    "learning_rate_discriminator": 2e-4,
    "weight_decay_adaptor": 0.01,
    "weight_decay_discriminator": 1e-5,
}


@dataclass(frozen=True)
class Config(Backboned):
    """Structure of the system; a change of any field compiles anew."""

    dimensions: int = at_least(1, 1536)  # of a modality's patch features
    hidden: int = at_least(1, 1024)  # width of the discriminator
    noise_levels: int = at_least(1, 1)  # K: a patch draws one of noise * 1.1^k, k < K
    epochs: int = at_least(1, 160)  # 40 meta-epochs of 4 in the release
    sigma: float = 4.0  # of the map's Gaussian, pixels


def simplenet(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes."""
    needs = needed_fields(config.modalities)
    embed = partial(patchcore_patches, dimensions=config.dimensions)
    networks = {
        "adaptor": Adaptor(),
        "discriminator": FeatureDiscriminator(config.hidden),
    }

    def init(key, batch):
        first, *keys = jax.random.split(key, 3)
        patch = (1, 1, 1, config.dimensions * len(config.modalities))
        params, batch_stats = init_networks(
            networks, dict.fromkeys(networks, (patch,)), keys
        )
        return State(
            params,
            frozen=init_frozen(config, first),
            extra={"batch_stats": batch_stats},
            hyper=numbers(HYPER),
        )

    def patches(batch):
        """Returns the patch features of the cached maps, [B,h,w,D]."""
        return embed_maps(batch.extras, config.modalities, config.layers, embed)

    def loss(keys, params, state, batch, across):
        """Returns the hinge loss of clean against noisy features, and what it saw."""
        scope, hyper = training(params, state, batch, across), state.hyper
        normal = scope.apply("adaptor", networks["adaptor"], patches(batch))
        draw = partial(noise, config, hyper["noise"])
        both = jnp.concatenate([normal, normal + jax.vmap(draw)(keys, normal)])
        # One application, so that the batch statistics mix clean and noisy features.
        discriminator = networks["discriminator"]
        logits = scope.apply("discriminator", discriminator, both, times=2)
        clean, noisy = jnp.split(logits, 2)
        margin = hyper["margin"]
        info = {
            "right_clean": jnp.mean(clean >= margin, (1, 2, 3), jnp.float32),
            "right_noisy": jnp.mean(noisy < -margin, (1, 2, 3), jnp.float32),
        }
        return hinge(clean, noisy, margin), scope.sums, info

    def cells(key, state, batch):
        """Returns the discriminator's negated output."""
        scope = scoring(state)
        adapted = scope.apply("adaptor", networks["adaptor"], patches(batch))
        return -scope.apply("discriminator", networks["discriminator"], adapted)

    def whole(cells, size):
        """Returns the cells, smoothed, and the largest of them."""
        map = gaussian_blur(resize_bilinear(cells, size), config.sigma)
        return Scores(map, image=jnp.max(cells, axis=(1, 2, 3)))

    def score(key, state, batch):
        return whole(cells(key, state, batch), map_size(batch))

    updates = (Update(loss, optimizer),)
    return System(
        name="simplenet",
        needs_fit=needs,
        needs_score=needs,
        init=init,
        phases=(Train("train", updates, 0, epochs=config.epochs, fold=fold_modules),),
        score=score,
        pretrained=pretrained_parts(config),
        cache=partial(cached_maps, config),
        local=local(config, 3, cells, whole),
    )


def hinge(clean: Array, noisy: Array, margin: Array | float) -> Array:
    """Returns the two-sided hinge loss of each sample, [B] (sheet §4).

    Args:
        clean: [B,h,w,1] logits of normal features, wanted above the margin.
        noisy: [B,h,w,1] logits of noisy features, wanted below minus the margin.
        margin: th in the paper, > 0.
    """
    of_clean = jnp.mean(jax.nn.relu(margin - clean), (1, 2, 3))
    return of_clean + jnp.mean(jax.nn.relu(margin + noisy), (1, 2, 3))


def noise(config: Config, level: Array, key: Array, patches: Array) -> Array:
    """Returns Gaussian noise for the patches [h,w,D] of one sample."""
    draw, choose = jax.random.split(key)
    values = level * jax.random.normal(draw, patches.shape)
    if config.noise_levels == 1:
        return values
    shape = (*patches.shape[:-1], 1)
    powers = jax.random.randint(choose, shape, 0, config.noise_levels)
    return values * 1.1 ** powers.astype(jnp.float32)


def optimizer(hyper: Mapping[str, Array], steps: int) -> optax.GradientTransformation:
    """AdamW for the adaptor, Adam with L2 decay for the discriminator (sheet §4)."""
    adaptor = optax.adamw(
        hyper["learning_rate_adaptor"], weight_decay=hyper["weight_decay_adaptor"]
    )
    discriminator = optax.chain(
        optax.add_decayed_weights(hyper["weight_decay_discriminator"]),
        optax.adam(hyper["learning_rate_discriminator"]),
    )
    groups = {"adaptor": adaptor, "discriminator": discriminator}
    return optax.partition(groups, {name: name for name in groups})
