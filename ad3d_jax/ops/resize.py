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


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns [B,h,w,C] of x's dtype; row i is row floor(i * H / h) of x [B,H,W,C]."""
    (_, height, width, _), (h, w) = x.shape, size
    rows = np.arange(h) * height // h
    columns = np.arange(w) * width // w
    return jnp.take(jnp.take(x, rows, axis=1), columns, axis=2)
