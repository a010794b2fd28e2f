"""Halving and doubling of feature maps, in forms whose gradients are cheap."""

import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array


def max_pool(x: Array) -> Array:
    """Returns the maxima of the 2x2 cells: [B,H,W,C] to [B,H/2,W/2,C], H and W even.

    As pairwise maxima: the gradient of a reduction compares with its result, which the
    CPU compiler may compute anew with another rounding, and then it is 0/0.
    """
    rows, height, width, channels = x.shape
    cells = x.reshape(rows, height // 2, 2, width // 2, 2, channels)
    cells = jnp.maximum(cells[:, :, 0], cells[:, :, 1])
    return jnp.maximum(cells[:, :, :, 0], cells[:, :, :, 1])


def double(x: Array) -> Array:
    """Returns the bilinear enlargement with aligned corners: [B,H,W,C] to [B,2H,2W,C].

    The first and last samples of the result lie on those of the input.
    """
    return _double_axis(_double_axis(x, 1), 2)


def _double_axis(x: Array, axis: int) -> Array:
    """Doubles one axis of n samples.

    Result 2k lies k / (2n - 1) before sample k, result 2k + 1 lies
    (n - 1 - k) / (2n - 1) behind it, so that two shifts and an interleaving do.
    """
    n = x.shape[axis]
    along = [1] * x.ndim
    along[axis] = n
    before = (np.arange(n) / (2 * n - 1)).astype(np.float32).reshape(along)
    behind = ((n - 1 - np.arange(n)) / (2 * n - 1)).astype(np.float32).reshape(along)
    previous = jnp.concatenate([_cut(x, axis, 0, 1), _cut(x, axis, 0, n - 1)], axis)
    following = jnp.concatenate([_cut(x, axis, 1, n), _cut(x, axis, n - 1, n)], axis)
    even = x + before.astype(x.dtype) * (previous - x)
    odd = x + behind.astype(x.dtype) * (following - x)
    shape = x.shape[:axis] + (2 * n,) + x.shape[axis + 1 :]
    return jnp.stack([even, odd], axis + 1).reshape(shape)


def _cut(x: Array, axis: int, start: int, stop: int) -> Array:
    return x[(slice(None),) * axis + (slice(start, stop),)]


def divisible(network: str, shape: tuple[int, ...], factor: int):
    """Raises a ValueError unless height and width of `shape` divide by `factor`."""
    _, height, width, _ = shape
    if height % factor or width % factor:
        raise ValueError(
            f"{network}: height and width of the input must be divisible by {factor}, "
            f"found {height}x{width}"
        )
