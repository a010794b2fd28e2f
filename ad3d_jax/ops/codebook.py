"""Vector quantisation by a codebook that follows its vectors' moving averages.

Nothing here is differentiated but `straight_through`. What crosses devices are sums
over rows alone, so that the codebook is the same on any number of devices.

Reference: van den Oord et al., arXiv 1711.00937, appendix A.1, in the form of the
public code of DSR (arXiv 2208.01521) and 3DSR (arXiv 2311.01117).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array
from ad3d_jax.ops.knn import lowest

DECAY = 0.99
EPSILON = 1e-5
DEAD_BELOW = 0.01  # hits a batch: fewer than one in a hundred batches
SEEDS = 8  # vectors that a row offers to dead codes


class Codebook(NamedTuple):
    """K codes of D numbers and the moving averages that they are quotients of."""

    codes: Array  # [K,D] float32
    counts: Array  # [K] float32, vectors of a batch that a code is nearest to
    totals: Array  # [K,D] float32, their sum


class CodeSums(NamedTuple):
    """What a batch says of a codebook; sums over its real rows."""

    counts: Array  # [K] vectors that a code is nearest to
    totals: Array  # [K,D] their sum
    seed_counts: Array  # [K] random vectors offered to a code, were it dead
    seed_totals: Array  # [K,D] their sum


def init_codebook(key: Array, size: int, dimensions: int) -> Codebook:
    """Returns `size` codes and totals from N(0,1), all counts 0."""
    codes, totals = jax.random.normal(key, (2, size, dimensions))
    return Codebook(codes, jnp.zeros(size), totals)


def nearest_code(codes: Array, z: Array) -> Array:
    """Returns the number of the code nearest to each vector, [B,...] int32.

    Args:
        codes: [K,D] float32.
        z: [B,...,D] float32; the vectors of one row are compared at a time.

    Of equally near codes the lowest number, by |c|²/2 - z·c in float32.
    """
    half_norms = 0.5 * jnp.sum(codes**2, axis=1)

    def nearest(vectors):
        products = jnp.einsum(
            "nd,kd->nk", vectors, codes, precision=jax.lax.Precision.HIGHEST
        )
        return lowest(half_norms[None, :] - products, 1)[1][:, 0]

    rows = jax.lax.stop_gradient(z).reshape(len(z), -1, z.shape[-1])
    return jax.lax.map(nearest, rows).reshape(z.shape[:-1])


def straight_through(z: Array, q: Array) -> Array:
    """Returns q up to rounding, with the gradient of z."""
    return z + jax.lax.stop_gradient(q - z)


def code_sums(
    size: int, z: Array, index: Array, weight: Array, keys: Array
) -> CodeSums:
    """Returns the sums of a batch, additive over rows and devices.

    Args:
        size: K.
        z: [B,...,D] vectors.
        index: [B,...] int32, number of each one's code.
        weight: [B], 0 for rows that do not count.
        keys: [B] typed keys, which choose the vectors that a row offers to dead codes.
    """
    rows, dimensions = len(z), z.shape[-1]
    z = jax.lax.stop_gradient(z).reshape(rows, -1, dimensions)
    positions = z.shape[1]
    real = (weight > 0).astype(jnp.float32)

    def offered(key):
        place_key, slot_key = jax.random.split(key)
        places = jax.random.randint(place_key, (SEEDS,), 0, positions)
        return places, jax.random.randint(slot_key, (SEEDS,), 0, size)

    places, slots = jax.vmap(offered)(keys)
    seeds = jnp.take_along_axis(z, places[..., None], axis=1)
    return CodeSums(
        *_sums_by_code(size, z, index.reshape(rows, -1), real),
        *_sums_by_code(size, seeds, slots, real),
    )


def fold_codebook(
    codebook: Codebook,
    sums: CodeSums,
    decay: float = DECAY,
    epsilon: float = EPSILON,
    revive_below: float = 0.0,
) -> Codebook:
    """Returns the codebook after one more batch.

    Args:
        codebook: before it.
        sums: of the batch, added over devices.
        decay: what is left of the old averages.
        epsilon: hits a batch that smoothing adds to every code.
        revive_below: codes with fewer hits a batch become vectors of the batch that
            were offered to them; 0 = never, as published.

    A code without a hit keeps a total of the first draw's size and a count of next to
    nothing, and so lies far from everything until the total has faded, after about a
    thousand batches. Long trainings get over it; for short ones there is revival, which
    is ours: a code comes back with the average count, so that it has time to be hit.
    """
    counts = decay * codebook.counts + (1.0 - decay) * sums.counts
    totals = decay * codebook.totals + (1.0 - decay) * sums.totals
    everything = jnp.sum(counts)
    size = len(counts)
    smoothed = (counts + epsilon) / (everything + size * epsilon) * everything
    if revive_below:
        revived = (counts < revive_below) & (sums.seed_counts > 0)
        seeds = sums.seed_totals / jnp.maximum(sums.seed_counts, 1.0)[:, None]
        average = everything / size
        smoothed = jnp.where(revived, average, smoothed)
        totals = jnp.where(revived[:, None], average * seeds, totals)
    # Nothing but zeros where no row was real yet.
    divisor = jnp.where(smoothed > 0, smoothed, 1.0)
    return Codebook(totals / divisor[:, None], smoothed, totals)


def health(codebook: Codebook) -> dict[str, Array]:
    """Returns how a codebook is used, by its counts, each [] float32.

    perplexity: as many codes in even use would be as varied; K = all alike.
    dead: codes with fewer than DEAD_BELOW hits a batch.
    """
    share = codebook.counts / jnp.maximum(jnp.sum(codebook.counts), EPSILON)
    logarithm = jnp.log(jnp.where(share > 0, share, 1.0))
    return {
        "perplexity": jnp.exp(-jnp.sum(share * logarithm)),
        "dead": jnp.sum((codebook.counts < DEAD_BELOW).astype(jnp.float32)),
    }


def _sums_by_code(
    size: int, vectors: Array, index: Array, weight: Array
) -> tuple[Array, Array]:
    """Returns (counts [K], totals [K,D]) of [B,P,D] vectors by their [B,P] codes."""
    weight = jnp.broadcast_to(weight[:, None], index.shape).reshape(-1)
    index = index.reshape(-1)
    vectors = weight[:, None] * vectors.reshape(len(index), -1)
    add = jax.ops.segment_sum
    return add(weight, index, size), add(vectors, index, size)
