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


def resize_bicubic(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns [B,h,w,C], bicubic with antialias, as Pillow and torch do.

    Keys' kernel with a = -1/2, widened where an axis shrinks; weights of pixels inside
    the image sum to one.

    Args:
        x: [B,H,W,C] float.
        size: (h, w) of the result.
    """
    if x.shape[1:3] == tuple(size):
        return x
    shape = (x.shape[0], *size, x.shape[3])
    precision = jax.lax.Precision.HIGHEST
    return jax.image.resize(x, shape, "cubic", antialias=True, precision=precision)


def resize_bicubic_offset(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns [B,h,w,C], bicubic without antialias, of a grid stretched by a tenth.

    The scale of an axis is (h + 1/10) / H, as the releases of DINO and DINOv2 give it
    to torch; the kernel is torch's, with a = -3/4 and the border repeated.

    Args:
        x: [B,H,W,C] float.
        size: (h, w) of the result.
    """
    if x.shape[1:3] == tuple(size):
        return x
    rows, columns = map(_offset_weights, x.shape[1:3], size)
    precision = jax.lax.Precision.HIGHEST
    x = jnp.einsum("hi,bijc->bhjc", rows, x, precision=precision)
    return jnp.einsum("wj,bhjc->bhwc", columns, x, precision=precision)


def _offset_weights(before: int, after: int) -> np.ndarray:
    """Returns [after,before] float32: each new sample's weights of the old ones."""
    places = (np.arange(after) + 0.5) * before / (after + 0.1) - 0.5
    weights = np.zeros((after, before))
    for step in (-1, 0, 1, 2):
        taps = np.floor(places) + step
        d = np.abs(places - taps)
        near = (1.25 * d - 2.25) * d**2 + 1
        far = -0.75 * (((d - 5) * d + 8) * d - 4)
        column = np.clip(taps, 0, before - 1).astype(int)
        np.add.at(weights, (np.arange(after), column), np.where(d <= 1, near, far))
    return weights.astype(np.float32)


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
