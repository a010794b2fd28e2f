"""Patches of a cloud, and the cells of the image that each of them stands for."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, Batch

SHIFT = 2  # cells to every side


class Patches(NamedTuple):
    """The patches of a batch, those that there are first."""

    there: Array  # [B,G] bool
    pixel: Array  # [B,G,N] int32, of each point, row by row
    points: Array  # [B,G,N,3] float32, centred, the largest extent 1


def any_patch(batch: Batch) -> Array:
    """Returns which samples have a patch, [B] bool."""
    return batch.extras["patches"][:, 0, 0] > 0


def cut(batch: Batch) -> Patches:
    """Returns the patches that the recipe has chosen (`data_pipelines`, `patches`).

    The cloud is moved and divided by its extent along x, then each patch is divided by
    its largest extent and centred, as in the release. What has no extent stays as it
    is.
    """
    stored = batch.extras["patches"].astype(jnp.int32)
    pixel = jnp.maximum(stored - 1, 0)
    xyz = batch.xyz.reshape(len(batch.xyz), -1, 3)
    measured = jnp.all(xyz != 0, axis=-1, keepdims=True)
    least = jnp.min(xyz, axis=1, keepdims=True, where=measured, initial=jnp.inf)
    most = jnp.max(xyz, axis=1, keepdims=True, where=measured, initial=-jnp.inf)
    some = jnp.any(measured, axis=1, keepdims=True)
    least, most = jnp.where(some, least, 0.0), jnp.where(some, most, 0.0)
    xyz = (xyz - least) / _positive((most - least)[..., :1])
    points = jax.vmap(lambda cloud, index: cloud[index])(xyz, pixel)
    extent = jnp.max(points, axis=2) - jnp.min(points, axis=2)
    largest = _positive(jnp.max(extent, axis=-1))
    points = points * (1 / largest)[..., None, None]
    points = points - jnp.mean(points, axis=2, keepdims=True)
    return Patches(stored[..., 0] > 0, pixel, points)


def cover(patches: Patches, size: tuple[int, int], cells: int) -> Array:
    """Returns which cells each patch stands for, [B,G,cells*cells] bool, row by row.

    Not those that its points lie in, but those two cells to the right, left, below and
    above of them. A number below 0 becomes the largest one, then a number beyond the
    last cell the smallest one, so that columns go on in the next row: all as in the
    release.

    Args:
        patches: of `cut`.
        size: (H, W) of the image.
        cells: of a side.

    Raises:
        ValueError: the cells do not divide the image into squares.
    """
    height, width = size
    if height != width or height % cells:
        raise ValueError(
            f"model.cells: expected a square image whose side is a multiple of {cells},"
            f" found {height} x {width}"
        )
    side, margin, count = height // cells, SHIFT * cells, cells**2
    row, column = jnp.divmod(patches.pixel, width)
    cell = row // side * cells + column // side
    cell = jnp.where(patches.there[..., None], cell, count)
    blank = jnp.zeros((*patches.there.shape, count), bool)
    own = jax.vmap(jax.vmap(lambda x, at: x.at[at].set(True, mode="drop")))(blank, cell)

    def shifted(step):
        before, behind = margin + step, margin - step
        return jnp.pad(own, ((0, 0), (0, 0), (before, behind)))

    found = shifted(SHIFT) | shifted(-SHIFT) | shifted(margin) | shifted(-margin)
    number = (jnp.arange(count + 2 * margin) - margin)[None, None]
    largest = jnp.max(jnp.where(found, number, -1), axis=-1, keepdims=True)
    below = jnp.any(found & (number < 0), axis=-1, keepdims=True)
    found = (found & (number >= 0)) | (below & (number == largest))
    smallest = jnp.min(jnp.where(found, number, 2 * count), axis=-1, keepdims=True)
    beyond = jnp.any(found & (number >= count), axis=-1, keepdims=True)
    found = found | (beyond & (number == smallest))
    return found[..., margin : margin + count]


def each(function: Callable, there: Array, at_a_time: int, *inputs: Array) -> Array:
    """Returns `function` of each patch that there is, [B,G,...]; 0 of the others.

    Args:
        function: of inputs [P,...] of P patches; returns [P,...] float32.
        there: [B,G] bool, as `Patches.there`.
        at_a_time: patches, at most.
        inputs: [B,G,...].

    No more is computed than there are patches, so that a sample of padding costs
    nothing.
    """
    total = there.shape[1]
    size = min(at_a_time, total)

    def sample(count, *inputs):
        def part(start):
            parts = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in inputs)
            return function(*parts)

        def advance(turn, results):
            # The last part begins early, and computes some once more.
            start = jnp.minimum(turn * size, total - size)
            return jax.lax.dynamic_update_slice_in_dim(results, part(start), start, 0)

        shape = jax.eval_shape(part, 0).shape
        results = jnp.zeros((total, *shape[1:]), jnp.float32)
        return jax.lax.fori_loop(0, -(-count // size), advance, results)

    results = jax.lax.map(lambda x: sample(*x), (jnp.sum(there, axis=1), *inputs))
    known = there.reshape(*there.shape, *(1,) * (results.ndim - 2))
    return jnp.where(known, results, 0)


def lowest_at_pixels(patches: Patches, values: Array, size: tuple[int, int]) -> Array:
    """Returns the smallest value that is not 0 of each pixel, [B,H,W,1]; 0 of none.

    Args:
        patches: of `cut`.
        values: [B,G,N] float32 >= 0, one a point.
        size: (H, W) of the image.
    """
    count = size[0] * size[1]
    there = patches.there[..., None] & (values > 0)
    pixel = jnp.where(there, patches.pixel, count)

    def sample(pixel, values):
        blank = jnp.full(count, jnp.inf, values.dtype)
        return blank.at[pixel].min(values, mode="drop")

    lowest = jax.vmap(sample)(pixel, values)
    return jnp.where(lowest < jnp.inf, lowest, 0.0).reshape(-1, *size, 1)


def _positive(x: Array) -> Array:
    """Returns x, 1 where it is not above 0."""
    return jnp.where(x > 0, x, 1.0)
