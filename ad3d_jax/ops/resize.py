"""Resizing of image batches."""

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns [B,h,w,C], bilinear with half-pixel centres and without antialias.

    Args:
        x: [B,H,W,C] float.
        size: (h, w) of the result.
    """
    if x.shape[1:3] == tuple(size):
        return x
    shape = (x.shape[0], *size, x.shape[3])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def at_size(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns host images of a size, bilinear as float32 where theirs is another.

    Args:
        x: [H,W], [H,W,C] or [B,H,W,C]; what has the size already stays as it is.
        size: (h, w) of the result.
    """
    before = x.shape[:1] if x.ndim == 4 else ()
    height, width, *channels = x.shape[len(before) :]
    if (height, width) == tuple(size):
        return x
    shape = (*(before or (1,)), height, width, *(channels or (1,)))
    batch = jnp.asarray(x.astype(np.float32).reshape(shape))
    resized = np.asarray(resize_bilinear(batch, tuple(size)))
    return resized.reshape(*before, *size, *channels)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns [B,h,w,C] of x's dtype; row i is row floor(i * H / h) of x [B,H,W,C]."""
    (_, height, width, _), (h, w) = x.shape, size
    rows = np.arange(h) * height // h
    columns = np.arange(w) * width // w
    return jnp.take(jnp.take(x, rows, axis=1), columns, axis=2)


def bilinear_at(x: jax.Array, pixels: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns what `resize_bilinear(x, size)` holds at some pixels, [N,C].

    The resized map itself is not made.

    Args:
        x: [H,W,C] float.
        pixels: [N,2] int, column and row of each within the size.
        size: (h, w) of the resized map.
    """
    height, width, channels = x.shape
    left, right, across = _neighbours(pixels[:, 0], width, size[1])
    above, below, down = _neighbours(pixels[:, 1], height, size[0])
    rows = x.reshape(-1, channels)

    def along(line):
        return rows[line * width + left] * (1 - across) + (
            rows[line * width + right] * across
        )

    return along(above) * (1 - down) + along(below) * down


def _neighbours(
    pixels: jax.Array, before: int, after: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the two entries of an axis that pixels lie between, and how far, [N,1].

    Args:
        pixels: [N] int, 0 to `after` - 1.
        before: length of the axis.
        after: its length after resizing.
    """
    place = (np.arange(after) + 0.5) * before / after - 0.5
    place = np.clip(place, 0, before - 1)
    first = np.floor(place).astype(np.int32)
    second = np.minimum(first + 1, before - 1)
    share = (place - first).astype(np.float32)
    first, second, share = (
        jnp.take(table, pixels, mode="clip") for table in (first, second, share)
    )
    return first, second, share[:, None]
