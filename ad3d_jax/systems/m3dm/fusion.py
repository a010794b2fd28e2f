"""Unsupervised feature fusion (UFF): two MLPs that a contrastive loss draws together.

One network for all classes: where a point and its pixel belong together, the heads of
their features shall be alike, and unlike those of all other places of the batch.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from ad3d_jax.base import Across, Array, Pretrained, Train, Tree, Update
from ad3d_jax.features.feature_fusion import read_feature_fusion
from ad3d_jax.nn.feature_fusion import FeatureFusion
from ad3d_jax.systems.m3dm import features
from ad3d_jax.systems.m3dm.config import UFF, Config

LARGE = 1e30  # below all logits
PRETRAINED = Pretrained(
    name=UFF,
    get=lambda state: state.params[UFF],
    put=lambda state, tree: state._replace(params={**state.params, UFF: tree}),
    read=read_feature_fusion,
)


def init(key: Array, points: int, rgb: int) -> Tree:
    """Returns fresh parameters for features of so many numbers."""
    shapes = jnp.zeros((1, points)), jnp.zeros((1, rgb))
    return FeatureFusion().init(key, *shapes)["params"]


def fused(params: Tree, points: Array, rgb: Array) -> Array:
    """Returns the fused features, those of points first, [B,P,D + E] float32.

    Args:
        params: of the network.
        points: [B,P,D] float32.
        rgb: [B,P,E] float32, of the same cells.
    """
    points, rgb, _, _ = FeatureFusion().apply({"params": params}, points, rgb)
    return jnp.concatenate([points, rgb], axis=-1)


def phase(config: Config) -> Train:
    """Returns the phase that trains the fusion on the samples of all classes."""

    def loss(keys, params, state, batch, across):
        """Returns the contrastive loss of a sample's cells among those of all."""
        points = features.of_points(config, batch)
        rgb = features.of_rgb(batch)
        paired = features.on_cells(config, rgb)
        if config.uff_pairing == "as_released":
            paired = rgb[:, features.tiled(config, rgb.shape[1])]

        def heads(cells):
            return FeatureFusion().apply({"params": params[UFF]}, *cells)[2:]

        # One sample at a time, and again for its gradients: its hidden layers are wide.
        keys, queries = jax.lax.map(jax.checkpoint(heads), (points, paired))
        counted = jnp.all(points != 0, axis=-1) & (batch.weight > 0)[:, None]
        each = contrastive(queries, keys, counted, across)
        rows = jnp.sum(counted, axis=1, dtype=each.dtype)
        samples, everywhere = across.sum((jnp.sum(batch.weight), jnp.sum(rows)))
        mean = 2 * jnp.sum(each, axis=1) * samples / jnp.maximum(everywhere, 1)
        return mean, {}, {"cells": rows}

    return Train(
        name=UFF,
        updates=(Update(loss, lambda *of: optimizer(config, *of), trainable=(UFF,)),),
        steps=config.uff_steps,
        epochs=None if config.uff_steps else config.uff_epochs,
        source="train_all",
        batch_size=config.uff_batch_size,
        pretrained=UFF,
    )


def contrastive(
    queries: Array, keys: Array, counted: Array, across: Across
) -> jax.Array:
    """Returns the cross-entropy of finding each query's own key, [B,P]; 0 uncounted.

    Args:
        queries: [B,P,C], of the image.
        keys: [B,P,C], of the points.
        counted: [B,P] bool; others are neither query nor key.
        across: the devices, whose keys all count.

    Both are normalised, and the temperature is 1. Some rows of queries are compared at
    a time, and again for the gradient: no array of all pairs exists.
    """
    queries, keys = map(_unit, (queries, keys))
    rows, dimensions = counted.shape[1], queries.shape[-1]
    others = across.gather(keys.reshape(-1, dimensions))
    there = across.gather(counted.reshape(-1))
    at_a_time = round(rows**0.5)

    @jax.checkpoint
    def entropy(part):
        own, mine = part
        logits = jnp.matmul(own, others.T, precision=jax.lax.Precision.HIGHEST)
        logits = jnp.where(there[None], logits, -LARGE)
        return jax.nn.logsumexp(logits, axis=1) - jnp.sum(own * mine, axis=1)

    parts = (x.reshape(-1, at_a_time, dimensions) for x in (queries, keys))
    each = jax.lax.map(entropy, tuple(parts)).reshape(counted.shape)
    return jnp.where(counted, each, 0)


def _unit(x: Array) -> jax.Array:
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def optimizer(
    config: Config, hyper: Mapping[str, Array], steps: int
) -> optax.GradientTransformation:
    """AdamW on the mean gradient of several batches; its rate rises, then falls to 0.

    Args:
        config: says of how many batches, and over which share of them the rate rises.
        hyper: the largest rate and the decay.
        steps: batches in all.
    """
    each, warm = config.uff_accumulate, config.uff_warm_up

    def rate(update):
        # Of the first batch of an update, as in the release.
        passed = update * each / steps
        rising = passed / warm if warm else jnp.ones_like(passed)
        fall = (passed - warm) / max(1 - warm, 1e-6)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(fall, 0, 1)))
        return hyper["learning_rate_uff"] * jnp.where(passed < warm, rising, falling)

    decay = hyper["weight_decay_uff"]
    adam = optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=decay)
    if each == 1:
        return adam
    return optax.MultiSteps(adam, each).gradient_transformation()
