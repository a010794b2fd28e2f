"""Fast point feature histograms of organised point clouds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.ops import points

BINS = 11


# Within other programs: they trace it once a shape.
@partial(jax.jit, static_argnames=("neighbours", "radius", "reach"))
def fpfh(
    xyz: jax.Array,
    valid: jax.Array,
    normals: jax.Array | None = None,
    neighbours: int = 100,
    radius: float = 0.25,
    reach: int = 8,
) -> jax.Array:
    """Returns FPFH descriptors [B,H,W,33] float32, 0 where invalid.

    Args:
        xyz: [B,H,W,3] float32, metres.
        valid: [B,H,W,1] bool, which points are measured.
        normals: [B,H,W,3] float32 unit normals; default `points.normals`.
        neighbours: nearest points that count, the point itself included.
        radius: metres, beyond which no point is a neighbour.
        reach: pixels around a tile within which neighbours are searched.

    Three histograms of 11 bins, each of which sums to 200 (100 of the point's own
    pairs, 100 of its neighbours' histograms weighted by the inverse squared distance).

    Source: Rusu et al. 2009 (ICRA), as in Open3D's compute_fpfh_feature with
    KDTreeSearchParamHybrid. Ours differs: points further away than `reach` pixels are
    missed (where the sensor left many gaps); equal distances at the last place all
    count; float32.

    Raises:
        ValueError: valid or normals do not have the shape of the cloud.
    """
    cloud = points.away(xyz, valid)
    if normals is None:
        normals = points.normals(xyz, valid)
    if normals.shape != xyz.shape:
        raise ValueError(f"normals: expected {xyz.shape}, found {normals.shape}")

    def own_histograms(own, others):
        limit = points.nearest_limit(_squared(own, others), neighbours, radius)
        bins = _pair_bins(own, others, limit)
        counts = jax.lax.map(  # bin by bin, so that the pairs are computed only once
            lambda number: jnp.sum((bins == number).astype(jnp.int32), 1),
            jnp.arange(BINS),
        )
        # Every point is among its neighbours.
        itself = (jnp.arange(BINS) == BINS // 2).astype(jnp.int32)
        counts = counts.swapaxes(0, 1) - itself[None, :, None]  # [3,BINS,Q]
        percent = 100 / jnp.maximum(jnp.sum(counts, 1, keepdims=True), 1)
        shares = counts.astype(jnp.float32) * percent
        return jnp.concatenate([shares.reshape(3 * BINS, -1), limit[None]])

    def neighbours_histograms(own, others):
        squared = _squared(own, others)
        near = (squared <= own[None, 3]) & (squared > 0)
        weight = jnp.where(near, 1 / jnp.where(near, squared, 1.0), 0.0)
        return jnp.matmul(others[3:], weight, precision=jax.lax.Precision.HIGHEST)

    oriented = jnp.concatenate([cloud, normals], -1)
    own = points.map_tiles(own_histograms, oriented, oriented, reach)
    own, limit = jnp.where(valid, own[..., :-1], 0.0), own[..., -1:]
    summed = points.map_tiles(
        neighbours_histograms,
        jnp.concatenate([cloud, limit], -1),
        jnp.concatenate([cloud, own], -1),
        reach,
    )
    groups = summed.reshape(*summed.shape[:-1], 3, BINS)
    total = jnp.sum(groups, -1, keepdims=True)
    groups *= jnp.where(total > 0, 100 / jnp.where(total > 0, total, 1.0), 0.0)
    return jnp.where(valid, own + groups.reshape(own.shape), 0.0)


def _squared(own, others):
    return points.sum_of_squares(points.differences(own, others))


def _pair_bins(own, others, limit):
    """Returns the bins of the three features of all pairs, int32 [3,M,Q].

    Points are [6,Q] and [6,M], position and normal; BINS marks a pair beyond the
    limit [Q]. Pairs without features (no distance, or a line along the normal) lie
    in the middle bins, as in Open3D.

    With d from one point to the other, the source of a pair is the point whose normal
    lies closer to the line; n is its normal, m the other's, all signs as seen from it.
    The features are the angle of m about d x n, the component of m along d x n, and
    that of d along n. Bins of the angle are told by comparing, without an arc tangent.
    """
    step = points.differences(own, others)
    first = [own[i, None, :] for i in range(3, 6)]
    second = [others[i, :, None] for i in range(3, 6)]
    squared = points.sum_of_squares(step)
    at_first, at_second = _dot(first, step), _dot(second, step)
    both, triple = _dot(first, second), _dot(step, _cross(first, second))
    swapped = jnp.abs(at_first) < jnp.abs(at_second)
    source = jnp.where(swapped, -at_second, at_first)
    target = jnp.where(swapped, -at_first, at_second)
    height = squared - source * source
    defined = height > 0
    inverse = jnp.where(defined, jax.lax.rsqrt(height), 0.0)
    turn = (target - source * both) * inverse  # sine and `both` cosine of the angle
    bounds = np.arange(1, BINS, 2) * np.pi / BINS
    steps = sum(
        (jnp.abs(turn) * np.cos(b) >= both * np.sin(b)).astype(jnp.int32)
        for b in bounds.astype(np.float32)
    )
    middle = BINS // 2
    angle = jnp.where(turn < 0, middle - steps, middle + steps)
    bins = (
        jnp.where(defined, angle, middle),
        _uniform_bin(triple * inverse),
        _uniform_bin(jnp.where(defined, source * jax.lax.rsqrt(squared), 0.0)),
    )
    near = squared <= limit[None]
    # Three selections, which XLA compiles apart, outrun one packed in an integer.
    return jnp.stack([jnp.where(near, b, BINS) for b in bins])


def _uniform_bin(x):
    """Returns the bin of x in [-1,1], int32."""
    return jnp.clip(jnp.floor((x + 1) * (BINS / 2)), 0, BINS - 1).astype(jnp.int32)


def _dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def _cross(a, b):
    return [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]
