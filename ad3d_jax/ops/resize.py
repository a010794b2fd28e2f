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


def bilinear_weights(length: int, size: int) -> np.ndarray:
    """Returns what each of `size` outputs takes of each input, [size,length] float32.

    Its product with a signal is that of `resize_bilinear` along one axis; some rows of
    it give some rows of the result.
    """
    centres = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    distances = np.abs(centres[:, None] - np.arange(length)[None])
    return np.maximum(1 - distances, 0).astype(np.float32)


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
