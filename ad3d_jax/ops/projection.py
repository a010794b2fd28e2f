"""Random linear projections that keep distances roughly."""

import math

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array


def johnson_lindenstrauss_dimension(count: int, eps: float = 0.9) -> int:
    """Returns the dimension in which `count` points keep their distances up to eps.

    floor(4 ln count / (eps²/2 - eps³/3)), squared distances within 1 ± eps.

    Raises:
        ValueError: count < 1, or eps outside (0, 1).

    Source: Dasgupta and Gupta 2003; equal to scikit-learn's
    `johnson_lindenstrauss_min_dim`.
    """
    if count < 1 or not 0 < eps < 1:
        raise ValueError(
            f"expected a count of at least 1 and eps in (0, 1), found {count} and {eps}"
        )
    return int(4 * math.log(count) / (eps**2 / 2 - eps**3 / 3))


def sparse_projection(key: Array, features: int, dimensions: int) -> Array:
    """Returns a matrix [features, dimensions] float32, most of it zero.

    An entry is not zero with probability 1/sqrt(features), and then plus or minus
    features^(1/4) / sqrt(dimensions) with equal chances.

    Source: Li, Hastie and Church 2006 (very sparse random projections), the default
    of scikit-learn's `SparseRandomProjection`; its stream of random numbers is not
    reproduced.
    """
    density = 1 / math.sqrt(features)
    value = math.sqrt(1 / density / dimensions)
    draw = jax.random.uniform(key, (features, dimensions))
    signed = jnp.where(draw < density / 2, value, -value)
    return jnp.where(draw < density, signed, 0.0)


def dense_projection(key: Array, features: int, dimensions: int) -> Array:
    """Returns a matrix [features, dimensions] float32, uniform in ±1/sqrt(features).

    Source: PatchCore's public implementation, whose mapper is a linear layer without
    bias at its default initialisation.
    """
    bound = 1 / math.sqrt(features)
    return jax.random.uniform(key, (features, dimensions), minval=-bound, maxval=bound)
