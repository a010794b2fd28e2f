"""Sets of points, padded by a mask: spread centres, their groups, and the way back.

All functions take one cloud; `jax.vmap` maps them over a batch. A cloud is an image's
pixels or any list of points; where the mask is False, coordinates may be anything.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array
from ad3d_jax.ops.knn import lowest

CHUNK_BYTES = 2**20  # of distances that are compared at a time
BLOCK, FEW = 128, 32  # entries that are compared by their best one first
LEAST_SQUARED_NORM = 1e-3  # below which the CUDA kernel chooses no point
EPSILON = 1e-8  # keeps the weight of a centre in its own place finite
NEAREST = 3  # centres that a point's features are interpolated from


class Centres(NamedTuple):
    """Points of a cloud that lie far from each other."""

    index: Array  # [G] int32, which points; 0 where not found
    xyz: Array  # [G,3] float32, their coordinates; 0 where not found
    found: Array  # [G] bool, False of all where the cloud has no valid point


class Interpolation(NamedTuple):
    """How features of centres become features of points: a weighted sum of three."""

    index: Array  # [N,3] int32, the centres, the nearest first
    weight: Array  # [N,3] float32, sum 1; 0 of points that are not valid


def farthest_points(
    xyz: Array,
    valid: Array,
    count: int,
    start: Array | None = None,
    least_squared_norm: float = -1.0,
) -> Centres:
    """Returns points, each as far as can be from those before it.

    Args:
        xyz: [N,3] float32.
        valid: [N] bool.
        count: number of centres, at least 1.
        start: [] int32, the first centre; None = the first valid point.
        least_squared_norm: a point whose squared norm does not exceed it is chosen as
            the first or never; LEAST_SQUARED_NORM for the CUDA kernel's rule.

    Of equally far points the lowest is chosen. Where fewer points than centres may be
    chosen, the lowest of them comes again and again; where none may, the first valid
    one.

    Source: furthest_point_sample of pointnet2_ops. Ours differs: its ties go to the
    lowest index modulo the number of its threads (512).

    Raises:
        ValueError: count is below 1, or the shapes do not fit.
    """
    _check(xyz, valid)
    if count < 1:
        raise ValueError(f"count: expected at least 1 centre, found {count}")
    planes = _blocks(jnp.where(valid[None], xyz.T, 0.0), BLOCK, 0.0)
    x, y, z = planes
    may = valid & (jnp.sum(jnp.square(xyz), axis=1) > least_squared_norm)
    first = jnp.argmax(valid).astype(jnp.int32)

    def add(number, state):
        index, distance = state
        last = index[number - 1]
        px, py, pz = planes[:, last // BLOCK, last % BLOCK]
        here = (x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2
        distance = jnp.minimum(distance, here)  # -1 stays where none may be chosen
        nearness, block = lowest(-jnp.max(distance, axis=1)[None], 1)
        _, place = lowest(-distance[block[0]], 1)
        farthest = (block * BLOCK + place)[0, 0]
        chosen = jnp.where(nearness[0, 0] > 0, first, farthest)
        return index.at[number].set(chosen), distance

    index = jnp.full(count, first if start is None else start, jnp.int32)
    distance = jnp.where(may, jnp.inf, -1.0).astype(jnp.float32)
    distance = _blocks(distance, BLOCK, -1.0)
    index, _ = jax.lax.fori_loop(1, count, add, (index, distance))
    found = jnp.broadcast_to(jnp.any(valid), (count,))
    index = jnp.where(found, index, 0)
    return Centres(index, jnp.where(found[:, None], xyz[index], 0.0), found)


def random_start(key: Array, valid: Array) -> jax.Array:
    """Returns a valid point's index, each as likely as the other, [] int32.

    Args:
        key: random key.
        valid: [N] bool; of a cloud without any valid point the result is 0.
    """
    odds = jnp.where(valid, 0.0, -jnp.inf)
    odds = jnp.where(jnp.any(valid), odds, 0.0)
    chosen = jax.random.categorical(key, odds).astype(jnp.int32)
    return jnp.where(jnp.any(valid), chosen, 0)


def nearest_points(xyz: Array, valid: Array, centres: Array, count: int) -> jax.Array:
    """Returns the valid points that lie nearest to each centre, [G,count] int32.

    Args:
        xyz: [N,3] float32.
        valid: [N] bool.
        centres: [G,3] float32.
        count: points a group, at most N.

    The nearest comes first; of equally near points the lowest. Where fewer are valid,
    the nearest stands for those that are missing, which leaves a maximum over the group
    as it is; where none is, all are 0. Distances are those of the differences, of a few
    centres at a time.

    Raises:
        ValueError: there are fewer points than `count`, or the shapes do not fit.
    """
    _check(xyz, valid)
    if not 1 <= count <= len(xyz):
        raise ValueError(f"count: expected 1 to {len(xyz)} points, found {count}")
    x, y, z = jnp.where(valid[None], xyz.T, 0.0)

    def group(centre):
        px, py, pz = centre
        squared = (x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2
        squared, index = _lowest(jnp.where(valid, squared, jnp.inf), count)
        return jnp.where(squared < jnp.inf, index, index[:1])

    at_a_time = max(CHUNK_BYTES // (4 * len(xyz)), 1)
    return jax.lax.map(group, centres, batch_size=at_a_time)


def interpolation(
    xyz: Array, valid: Array, centres: Array, found: Array | None = None
) -> Interpolation:
    """Returns the three nearest centres of each point and their weights.

    Args:
        xyz: [N,3] float32.
        valid: [N] bool.
        centres: [G,3] float32, G at least 3.
        found: [G] bool, which centres there are; None = all.

    Weights are proportional to 1 / (squared distance + 1e-8). Squared distances are
    those of the differences; of equally near centres the lowest comes first.

    Source: three-nearest-neighbour interpolation of PointNet++ (arXiv 1706.02413), as
    in M3DM. Ours differs: there the expanded form of the squared distance, whose error
    of 1e-7 can make it negative.

    Raises:
        ValueError: there are fewer than 3 centres, or the shapes do not fit.
    """
    _check(xyz, valid)
    if len(centres) < NEAREST:
        raise ValueError(f"centres: expected 3 or more, found {len(centres)}")
    found = jnp.ones(len(centres), bool) if found is None else found
    x, y, z = jnp.where(found[None], centres.T, 0.0)

    def near(point):
        px, py, pz = point
        squared = (px - x) ** 2 + (py - y) ** 2 + (pz - z) ** 2
        return _lowest(jnp.where(found, squared, jnp.inf), NEAREST)

    at_a_time = max(CHUNK_BYTES // (4 * len(centres)), 1)
    points = jnp.where(valid[:, None], xyz, 0.0)
    squared, index = jax.lax.map(near, points, batch_size=at_a_time)
    inverse = 1 / (squared + EPSILON)
    total = jnp.sum(inverse, axis=1, keepdims=True)
    known = valid[:, None] & (total > 0)
    weight = jnp.where(known, inverse / jnp.where(known, total, 1.0), 0.0)
    return Interpolation(index, weight)


def _lowest(x: Array, count: int) -> tuple[Array, Array]:
    """Returns the lowest values of [N], ascending, and their places.

    The `count` blocks with the lowest minima hold them all: each of these minima comes
    before whatever another block holds, of equal ones the lower place.
    """
    blocks = _blocks(x, FEW, jnp.inf)
    if len(blocks) > count:
        _, chosen = lowest(jnp.min(blocks, axis=1)[None], count)
        chosen = jnp.sort(chosen[0])
    else:
        chosen = jnp.arange(len(blocks), dtype=jnp.int32)
    values, place = lowest(blocks[chosen].reshape(1, -1), count)
    return values[0], (chosen[place // FEW] * FEW + place % FEW)[0]


def _blocks(x: Array, size: int, fill: float) -> Array:
    """Returns [...,N] cut into [...,N/size,size], filled up at the end."""
    more = -x.shape[-1] % size
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)], constant_values=fill)
    return x.reshape(*x.shape[:-1], -1, size)


def _check(xyz: Array, valid: Array) -> None:
    if xyz.ndim != 2 or xyz.shape[1] != 3 or not len(xyz):
        raise ValueError(f"xyz: expected [N,3], N > 0, found {xyz.shape}")
    if valid.shape != xyz.shape[:1]:
        raise ValueError(f"valid: expected {xyz.shape[:1]}, found {valid.shape}")
