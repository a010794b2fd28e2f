"""Local outlier factor: how much sparser a point's surroundings are than its peers'."""

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array
from ad3d_jax.ops.knn import lowest

# Of a mean reach; copies of a point lie at distance 0, where the factor would be 0/0.
LEAST_REACH = 1e-6


def local_outlier_factor(
    points: Array, present: Array, neighbours: int, least: float = LEAST_REACH
) -> jax.Array:
    """Returns the factor of each point of a small set, [N] float32; 1 where absent.

    Args:
        points: [N,D] float32.
        present: [N] bool, which points there are.
        neighbours: k, at least 1; capped by the others that are present.
        least: floor of the mean reach, so that copies of one point have factor 1.

    With d_k(o) the distance of o to its k-th neighbour, the reach of x from o is
    max(d_k(o), |x - o|), the density of x one over the mean reach from its k
    neighbours, and the factor the mean of their densities over that of x. About 1
    inside a cluster, above 1 outside; where nobody else is present it is 1. All pairs
    are compared: [N,N].

    Source: Breunig et al., "LOF: Identifying Density-Based Local Outliers" (2000), as
    scikit-learn's `LocalOutlierFactor`, whose floor is 1e-10 of the mean reach.

    Raises:
        ValueError: k is below 1.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours: expected at least 1, found {neighbours}")
    count = len(points)
    others = present[None] & present[:, None] & ~jnp.eye(count, dtype=bool)
    squared = jnp.sum((points[:, None] - points[None]) ** 2, axis=-1)
    apart = jnp.where(others, jnp.sqrt(squared), jnp.inf)
    distance, index = (
        lowest(apart, min(neighbours, count - 1))
        if count > 1
        else (
            jnp.full((count, 1), jnp.inf),
            jnp.zeros((count, 1), jnp.int32),
        )
    )
    near = distance < jnp.inf  # fewer than k may be present
    number = jnp.maximum(jnp.sum(near, axis=1, dtype=jnp.float32), 1.0)
    farthest = jnp.max(jnp.where(near, distance, 0.0), axis=1)

    def mean(values):
        return jnp.sum(jnp.where(near, values, 0.0), axis=1) / number

    reach = jnp.maximum(mean(jnp.maximum(distance, farthest[index])), least)
    density = 1 / reach
    factor = mean(density[index]) / density
    return jnp.where(near[:, 0], factor, 1.0)
