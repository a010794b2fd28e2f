"""Rotation of images about their centre."""

import jax
import jax.numpy as jnp


def rotate(
    image: jax.Array, degrees: jax.Array | float, fill: str = "zero"
) -> jax.Array:
    """Returns the image turned counter-clockwise about its centre, [H,W,C] float32.

    Args:
        image: [H,W,C] float.
        degrees: angle, a number or a 0-d array.
        fill: what lies outside the image: "zero", or "edge" for its nearest pixel.

    Bilinear; the size stays the same.

    Raises:
        ValueError: an unknown fill.
    """
    if fill not in ("zero", "edge"):
        raise ValueError(f"fill: expected 'zero' or 'edge', found {fill!r}")
    height, width, channels = image.shape
    radians = jnp.deg2rad(jnp.asarray(degrees, jnp.float32))
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    y = (jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2)[:, None]
    x = (jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2)[None, :]
    row, row_part = _split(cos * y + sin * x + (height - 1) / 2, height)
    column, column_part = _split(cos * x - sin * y + (width - 1) / 2, width)
    mode = "constant" if fill == "zero" else "edge"
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode=mode)
    flat = padded.reshape(-1, channels)
    corner = row * (width + 2) + column

    def neighbour(step):
        return flat.at[corner + step].get(mode="promise_in_bounds")

    row_part, column_part = row_part[..., None], column_part[..., None]
    top = neighbour(0) + column_part * (neighbour(1) - neighbour(0))
    below = neighbour(width + 2), neighbour(width + 3)
    bottom = below[0] + column_part * (below[1] - below[0])
    return top + row_part * (bottom - top)


def _split(coordinate: jax.Array, length: int):
    """Returns index into the axis padded by one pixel, and the part beyond it."""
    padded = jnp.clip(coordinate, -1.0, length) + 1.0
    index = jnp.minimum(jnp.floor(padded), length)
    return index.astype(jnp.int32), padded - index
