"""One Gaussian a position: from sums over samples, and Mahalanobis distances to it."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array

BLOCK_BYTES = 2**28


class Gaussians(NamedTuple):
    """Means and regularised covariances of P positions.

    The squared distance of x is |F scale (x - mean)|², scale = 1/sqrt(epsilon), with F
    the inverse of the Cholesky factor of covariance / epsilon + I.
    """

    mean: Array  # [P,D] float32
    scale: Array  # [] float32
    factor: Array  # [P,D,D] float32; [P,0,D] until it is fitted


def empty(positions: int, dimensions: int) -> Gaussians:
    """Returns what stands in a state until it is fitted."""
    return Gaussians(
        mean=np.zeros((positions, dimensions), np.float32),
        scale=np.ones((), np.float32),
        factor=np.zeros((positions, 0, dimensions), np.float32),
    )


def check(count: float, epsilon: float) -> None:
    """Raises ValueError where no covariance can be estimated or inverted."""
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 samples, found {count:g}")
    if not epsilon > 0:
        raise ValueError(f"epsilon: expected a number above 0, found {epsilon}")


def moments(rows: Array, mean: Array, weight: Array) -> Array:
    """Returns the sum over samples of the products of what is off the mean, [P,D,D].

    Args:
        rows: [B,P,D] float32.
        mean: [P,D] float32.
        weight: [B] float32, how often each sample counts.
    """
    centred = rows - mean[None]
    return _einsum("bpd,bpe->pde", weight[:, None, None] * centred, centred)


def fit(
    mean: Array,
    moments: Array,
    count: float,
    epsilon: float,
    block_bytes: int = BLOCK_BYTES,
) -> Gaussians:
    """Returns the Gaussians of samples, on the host.

    Args:
        mean: [P,D], of the samples.
        moments: [P,D,D], sums over the samples as `moments` returns them.
        count: of the samples, >= 2.
        epsilon: > 0, added to the diagonal of the covariance, whose divisor is the
            count - 1.
        block_bytes: device memory for the positions that are worked on at a time.

    Raises:
        ValueError: too few samples, or epsilon is not > 0.

    Source: PaDiM (arXiv 2011.08785), Eq. 1; no inverse is stored.
    """
    check(count, epsilon)
    positions, dimensions = mean.shape
    # A matrix, its Cholesky factor and the inverse of that.
    block = min(positions, max(block_bytes // (12 * dimensions**2), 1))
    factor = np.empty((positions, dimensions, dimensions), np.float32)
    for first in range(0, positions, block):
        # The last block ends at the last position, so that all have one shape.
        here = slice(min(first, positions - block), min(first + block, positions))
        scaled = moments[here] / ((count - 1) * epsilon)
        factor[here] = _inverse_factor(np.asarray(scaled, np.float32))
    scale = np.array(1 / np.sqrt(epsilon), np.float32)
    return Gaussians(np.asarray(mean, np.float32), scale, factor)


def mahalanobis(gaussians: Gaussians, queries: Array) -> Array:
    """Returns the distance of each query to its position's Gaussian, [B,P] float32.

    Args:
        gaussians: of P positions and D features.
        queries: [B,P,D] float32.

    Raises:
        ValueError: positions or features differ.
    """
    mean, scale, factor = gaussians
    if queries.shape[1:] != mean.shape:
        raise ValueError(
            f"queries: expected [B,{mean.shape[0]},{mean.shape[1]}] to fit the "
            f"Gaussians, found {queries.shape}"
        )
    offset = (queries - mean[None]) * scale
    return jnp.linalg.norm(_einsum("pkd,bpd->bpk", factor, offset), axis=-1)


@jax.jit
def _inverse_factor(matrices: Array) -> Array:
    """Returns the inverse of the Cholesky factor of each matrix plus one, [p,D,D]."""
    identity = jnp.broadcast_to(jnp.eye(matrices.shape[-1]), matrices.shape)
    lower = jnp.linalg.cholesky(matrices + identity)
    return jax.lax.linalg.triangular_solve(lower, identity, left_side=True, lower=True)


_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
