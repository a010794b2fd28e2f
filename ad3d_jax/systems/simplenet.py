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

from ad3d_jax.base import (
    Across,
    Array,
    Batch,
    Scores,
    State,
    System,
    Train,
    Tree,
    Update,
)
from ad3d_jax.features.extractors import init_backbone
from ad3d_jax.features.modalities import (
    embed_maps,
    modality_maps,
    needed_fields,
    patch_features,
)
from ad3d_jax.features.patches import patchcore_patches
from ad3d_jax.nn import batch_norm
from ad3d_jax.nn.feature_discriminator import Adaptor, FeatureDiscriminator
from ad3d_jax.ops.blur import gaussian_blur
from ad3d_jax.ops.resize import resize_bilinear


@dataclass(frozen=True)
class Config:
    """Structure of the system; a change of any field compiles anew."""

    modalities: tuple[str, ...] = ("rgb",)  # depth is our extension
    backbone: str = "wide_resnet50"
    layers: tuple[str, ...] = ("layer2", "layer3")
    dimensions: int = 1536  # of a modality's patch features
    hidden: int = 1024  # width of the discriminator
    noise_levels: int = 1  # K: each patch draws one of noise * 1.1^k, k < K
    epochs: int = 160  # 40 meta-epochs of 4 in the release
    sigma: float = 4.0  # of the map's Gaussian, pixels


HYPER: Mapping[str, float] = {
    "noise": 0.015,
    "margin": 0.5,
    "learning_rate_adaptor": 1e-4,
    "learning_rate_discriminator": 2e-4,
    "weight_decay_adaptor": 0.01,
    "weight_decay_discriminator": 1e-5,
}


def simplenet(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system.

    Raises:
        ValueError: a field of the configuration is wrong.
    """
    needs = needed_fields(config.modalities)
    for field in ("dimensions", "hidden", "noise_levels", "epochs"):
        if getattr(config, field) < 1:
            raise ValueError(
                f"model.{field}: expected at least 1, found {getattr(config, field)}"
            )
    phase = Train(
        name="train",
        updates=(Update(partial(loss, config), optimizer),),
        steps=0,
        epochs=config.epochs,
        fold=fold,
        cache=partial(cache, config),
    )
    return System(
        name="simplenet",
        needs_fit=needs,
        needs_score=needs,
        init=partial(init, config),
        phases=(phase,),
        score=partial(score, config),
    )


def init(config: Config, key: Array, batch: Batch) -> State:
    """Returns the initial state, the backbone random."""
    keys = jax.random.split(key, 3)
    backbone = init_backbone(keys[0], config.backbone, config.layers[-1])
    patch = jnp.zeros((1, 1, 1, config.dimensions * len(config.modalities)))
    adaptor = Adaptor().init(keys[1], patch)["params"]
    discriminator = FeatureDiscriminator(config.hidden).init(keys[2], patch, False)
    return State(
        params={"adaptor": adaptor, "discriminator": discriminator["params"]},
        frozen={"backbone": backbone},
        extra={"batch_stats": discriminator["batch_stats"]},
        hyper={name: jnp.float32(value) for name, value in HYPER.items()},
    )


# --- Training -------------------------------------------------------------------------


def cache(config: Config, state: State, batch: Batch) -> dict[str, Array]:
    """Returns the backbone's maps, which no step changes."""
    return modality_maps(
        state.frozen["backbone"],
        config.backbone,
        batch,
        config.modalities,
        config.layers,
    )


def loss(
    config: Config,
    keys: Array,
    params: Tree,
    state: State,
    batch: Batch,
    across: Across,
) -> tuple[Array, Tree, Mapping[str, Array]]:
    """Returns the hinge loss of clean against noisy features, and what it saw."""
    embed = partial(patchcore_patches, dimensions=config.dimensions)
    patches = embed_maps(batch.extras, config.modalities, config.layers, embed)
    normal = Adaptor().apply({"params": params["adaptor"]}, patches)
    noisy = normal + jax.vmap(partial(noise, config, state.hyper["noise"]))(
        keys, normal
    )
    # One application, so that the batch statistics mix clean and noisy features.
    logits, updated = FeatureDiscriminator(config.hidden).apply(
        {"params": params["discriminator"], **state.extra},
        jnp.concatenate([normal, noisy]),
        True,
        jnp.concatenate([batch.weight, batch.weight]),
        across,
        mutable=["sums"],
    )
    clean, fake = jnp.split(logits, 2)
    margin = state.hyper["margin"]
    info = {
        "told_clean": jnp.mean(clean >= margin, (1, 2, 3), jnp.float32),
        "told_noisy": jnp.mean(fake < -margin, (1, 2, 3), jnp.float32),
    }
    return hinge(clean, fake, margin), updated["sums"], info


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
    return values * 1.1 ** jax.random.randint(choose, shape, 0, config.noise_levels)


def fold(extra: Tree, sums: Tree) -> Tree:
    """Moves the running batch statistics towards those of the step."""
    return {"batch_stats": batch_norm.fold(extra["batch_stats"], sums)}


def optimizer(hyper: Mapping[str, Array], steps: int) -> optax.GradientTransformation:
    """AdamW for the adaptor, Adam with L2 decay for the discriminator (sheet §4)."""
    del steps
    adaptor = optax.adamw(
        hyper["learning_rate_adaptor"], weight_decay=hyper["weight_decay_adaptor"]
    )
    discriminator = optax.chain(
        optax.add_decayed_weights(hyper["weight_decay_discriminator"]),
        optax.adam(hyper["learning_rate_discriminator"]),
    )
    groups = {"adaptor": adaptor, "discriminator": discriminator}
    return optax.partition(groups, {name: name for name in groups})


# --- Scoring --------------------------------------------------------------------------


def score(config: Config, key: Array, state: State, batch: Batch) -> Scores:
    """Returns the discriminator's negated output, smoothed, and its maximum."""
    del key
    patches = patch_features(
        state.frozen["backbone"],
        config.backbone,
        batch,
        config.modalities,
        config.layers,
        partial(patchcore_patches, dimensions=config.dimensions),
    )
    adapted = Adaptor().apply({"params": state.params["adaptor"]}, patches)
    variables = {"params": state.params["discriminator"], **state.extra}
    grid = -FeatureDiscriminator(config.hidden).apply(variables, adapted, False)
    field = needed_fields(config.modalities)[0]
    size = getattr(batch, field).shape[1:3]
    return Scores(
        map=gaussian_blur(resize_bilinear(grid, size), config.sigma),
        image=jnp.max(grid, axis=(1, 2, 3)),
    )
