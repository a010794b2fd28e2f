"""Entropy of features, and EasyNet's choice between two maps that rests on it."""

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array

BINS = 256
BITS = 8.0  # the largest entropy of the histogram
NEVER = -100.0  # a gain below every threshold


def histogram_entropy(values: Array) -> tuple[Array, Array]:
    """Returns the entropy of a histogram over [0,1] in bits, and how many it counts.

    Args:
        values: [B,D] float32; those outside [0,1] are ignored.

    Returns:
        ([B] float32 in [0,8], 0 where nothing is counted; [B] int32).

    Source: EasyNet (arXiv 2307.13925) and its code; there an empty histogram gives NaN.
    """
    inside = (values >= 0.0) & (values <= 1.0)
    places = jnp.where(inside, jnp.minimum(values * BINS, BINS - 1), 0.0)

    def count(places, inside):
        return jnp.zeros(BINS, jnp.int32).at[places].add(inside)

    counts = jax.vmap(count)(places.astype(jnp.int32), inside.astype(jnp.int32))
    total = jnp.sum(counts, axis=1)
    shares = counts / jnp.maximum(total, 1)[:, None]
    entropy = -jnp.sum(shares * jnp.log2(shares + 1e-12), axis=1)
    return jnp.maximum(entropy, 0.0), total


def entropy_gain(rgb: Array, depth: Array) -> Array:
    """Returns by how many bits depth raises the entropy of the pooled features, [B].

    Args:
        rgb: pooled features of colour [B,D] float32.
        depth: pooled features of depth [B,E] float32.

    Without any colour feature in [0,1] there is no entropy to compare with; the gain is
    then NEVER, as the code's comparison with NaN takes the colour map.
    """
    alone, counted = histogram_entropy(rgb)
    both, _ = histogram_entropy(jnp.concatenate([rgb, depth], axis=1))
    return jnp.where(counted > 0, both - alone, NEVER)


def best_threshold(
    gain: Array, rgb: Array, fusion: Array, anomalous: Array, counted: Array
) -> Array:
    """Returns the threshold of the gain that separates images best, [] float32.

    The gated score is `fusion` where the gain reaches the threshold, else `rgb`. The
    largest image AUROC wins; of equals, the threshold nearest to 0 (the paper's value).

    Args:
        gain: [R] float32, of clean and of altered images.
        rgb: [R] float32, image scores of the colour map.
        fusion: [R] float32, image scores of the fusion map.
        anomalous: [R] bool.
        counted: [R] bool; the others are left out.
    """
    ordered = jnp.sort(jnp.where(counted, gain, 0.0))
    between = (ordered[1:] + ordered[:-1]) / 2
    thresholds = jnp.concatenate([jnp.array([0.0, -BITS, BITS]), between])
    thresholds = thresholds[jnp.argsort(jnp.abs(thresholds), stable=True)]
    pairs = (anomalous & counted)[:, None] & (~anomalous & counted)[None, :]

    def wins(threshold):
        score = jnp.where(gain >= threshold, fusion, rgb)
        high, low = score[:, None], score[None, :]
        above, equal = (x.astype(jnp.int32) for x in (high > low, high == low))
        doubled = 2 * above + equal
        return jnp.sum(jnp.where(pairs, doubled, 0))  # whole numbers: exact ties

    return thresholds[jnp.argmax(jax.lax.map(wins, thresholds))]
