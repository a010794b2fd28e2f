"""One Gaussian a position: fitted from samples, and Mahalanobis distances to it."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array

BLOCK_BYTES = 2**28


class Gaussians(NamedTuple):
    """Means and regularised covariances of P positions, made by `fit`.

    With v = scale (x - mean), scale = 1/sqrt(eps), the squared distance is, after the
    number of samples N (`by_samples`),

    - |F v|², F [D,D] the inverse of the Cholesky factor of cov/eps; J = 0; or
    - |v - F^T a|² + |a|², a = G F v, F [N,D] the scaled centred samples and
      G = (F F^T + I)^-1. This is Woodbury's identity, written as the minimum over a:
      a sum of squares without cancellation, in which an error of a counts squared.
    """

    mean: Array  # [P,D] float32
    scale: Array  # [] float32
    factor: Array  # [P,K,D] float32
    inner: Array  # [P,J,J] float32, J = K or 0


def empty(positions: int, dimensions: int) -> Gaussians:
    """Returns what stands in a state until it is fitted."""
    return Gaussians(
        mean=np.zeros((positions, dimensions), np.float32),
        scale=np.ones((), np.float32),
        factor=np.zeros((positions, 0, dimensions), np.float32),
        inner=np.zeros((positions, 0, 0), np.float32),
    )


def by_samples(count: int, dimensions: int) -> bool:
    """Returns whether Woodbury's form takes less memory than the Cholesky factor."""
    return count * (count + dimensions) < dimensions**2


def check(count: int, epsilon: float) -> None:
    """Raises ValueError where no covariance can be estimated or inverted."""
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 samples, found {count}")
    if not epsilon > 0:
        raise ValueError(f"epsilon: expected a number above 0, found {epsilon}")


def fit(rows: Array, epsilon: float, block_bytes: int = BLOCK_BYTES) -> Gaussians:
    """Returns the Gaussians of samples, on the host.

    Args:
        rows: [N,P,D] float32, N samples of D features at P positions, N >= 2.
        epsilon: > 0, added to the diagonal of the covariance, whose divisor is N - 1.
        block_bytes: device memory for the positions that are worked on at a time.

    Raises:
        ValueError: too few samples, rows that are not finite, or epsilon is not > 0.

    Source: PaDiM (arXiv 2011.08785), Eq. 1; neither covariance nor inverse is stored.
    """
    count, positions, dimensions = rows.shape
    check(count, epsilon)
    bad = sum(int((~np.isfinite(row).all(-1)).sum()) for row in rows)
    if bad:
        raise ValueError(
            f"expected finite features, found {bad} of {count * positions} rows with "
            "NaN or infinity"
        )
    scale = np.array(1 / np.sqrt(epsilon), np.float32)
    block = block_positions(count, positions, dimensions, block_bytes)
    width = count if by_samples(count, dimensions) else dimensions
    inner = width if by_samples(count, dimensions) else 0
    result = Gaussians(
        mean=np.empty((positions, dimensions), np.float32),
        scale=scale,
        factor=np.empty((positions, width, dimensions), np.float32),
        inner=np.empty((positions, inner, inner), np.float32),
    )
    for first in range(0, positions, block):
        # The last block ends at the last position, so that all have one shape.
        here = slice(min(first, positions - block), min(first + block, positions))
        mean, factor, within = _fit_block(np.ascontiguousarray(rows[:, here]), scale)
        result.mean[here], result.factor[here] = mean, factor
        result.inner[here] = within
    return result


def mahalanobis(gaussians: Gaussians, queries: Array) -> Array:
    """Returns the distance of each query to its position's Gaussian, [B,P] float32.

    Args:
        gaussians: of P positions and D features.
        queries: [B,P,D] float32.

    Raises:
        ValueError: positions or features differ.
    """
    mean, scale, factor, inner = gaussians
    if queries.shape[1:] != mean.shape:
        raise ValueError(
            f"queries: expected [B,{mean.shape[0]},{mean.shape[1]}] to fit the "
            f"Gaussians, found {queries.shape}"
        )
    offset = (queries - mean[None]) * scale
    weights = _einsum("pkd,bpd->bpk", factor, offset)
    if not inner.shape[1]:
        return jnp.linalg.norm(weights, axis=-1)
    weights = _einsum("pij,bpj->bpi", inner, weights)
    rest = offset - _einsum("pkd,bpk->bpd", factor, weights)
    return jnp.sqrt(jnp.sum(rest**2, -1) + jnp.sum(weights**2, -1))


def block_positions(
    count: int, positions: int, dimensions: int, block_bytes: int
) -> int:
    """Returns how many positions `fit` works on at a time."""
    side = count if by_samples(count, dimensions) else dimensions
    # Samples, centred samples and result; matrix, its factor and inverse.
    each = 4 * (3 * count * dimensions + 3 * side**2)
    return min(positions, max(block_bytes // each, 1))


def numbers(count: int, positions: int, dimensions: int) -> int:
    """Returns how many numbers the Gaussians of `count` samples hold."""
    if by_samples(count, dimensions):
        each = dimensions + count * (count + dimensions)
    else:
        each = dimensions + dimensions**2
    return positions * each + 1


@jax.jit
def _fit_block(rows: Array, scale: Array) -> tuple[Array, Array, Array]:
    """Returns mean [p,D], factor [p,K,D] and inner [p,J,J] of rows [N,p,D]."""
    count, positions, dimensions = rows.shape
    mean = jnp.mean(rows, axis=0)
    centred = (rows - mean[None]) * (scale / np.sqrt(count - 1))
    samples = jnp.swapaxes(centred, 0, 1)
    if by_samples(count, dimensions):
        gram = _einsum("pid,pjd->pij", samples, samples) + jnp.eye(count)[None]
        lower = jnp.linalg.cholesky(gram)
        inverse = _inverse(lower)
        return mean, samples, _einsum("pki,pkj->pij", inverse, inverse)
    covariance = _einsum("pnd,pne->pde", samples, samples)
    lower = jnp.linalg.cholesky(covariance + jnp.eye(dimensions)[None])
    return mean, _inverse(lower), jnp.zeros((positions, 0, 0))


def _inverse(lower: Array) -> Array:
    """Returns the inverses of lower triangular matrices [p,D,D]."""
    identity = jnp.broadcast_to(jnp.eye(lower.shape[-1]), lower.shape)
    return jax.lax.linalg.triangular_solve(lower, identity, left_side=True, lower=True)


_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
