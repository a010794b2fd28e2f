"""An image's brightness changed in six colour spaces, each of which keeps its chroma.

A space is a function of an image [H,W,3] float32 in [0,1] and of a function that maps
the brightness [H,W], in [0,1], to another one. It returns an image that may leave
[0,1]. Definitions follow OpenCV, whose images of 8 bits are rounded in between.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Change = Callable[[jax.Array], jax.Array]

# From sRGB's linear values to XYZ under D65, and back.
TO_XYZ = np.float32(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
TO_RGB = np.linalg.inv(TO_XYZ.astype(np.float64)).astype(np.float32)
WHITE = TO_XYZ.sum(axis=1)
KNEE, SLOPE = 216 / 24389, 24389 / 27  # where the lightness of CIE 1976 is no root


def change_luma(image: jax.Array, change: Change) -> jax.Array:
    """In YCrCb and YUV: the same is added to all channels."""
    luma = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
    return image + (change(luma) - luma)[..., None]


def change_value(image: jax.Array, change: Change) -> jax.Array:
    """In HSV: all channels are multiplied by the same; black becomes grey."""
    value = jnp.max(image, axis=-1, keepdims=True)
    shares = jnp.where(value > 0, image / jnp.where(value > 0, value, 1.0), 1.0)
    return change(value) * shares


def change_lightness(image: jax.Array, change: Change) -> jax.Array:
    """In HLS: the distance to the middle of the extremes grows with the room it has."""
    high, low = (f(image, axis=-1, keepdims=True) for f in (jnp.max, jnp.min))
    old = 0.5 * (high + low)
    new = change(old)
    room = 1.0 - jnp.abs(2.0 * old - 1.0)
    scale = (1.0 - jnp.abs(2.0 * new - 1.0)) / jnp.where(room > 0, room, 1.0)
    return new + (image - old) * jnp.where(room > 0, scale, 0.0)


def change_lab(image: jax.Array, change: Change) -> jax.Array:
    """In CIE 1976 L*a*b*: the roots of X, Y and Z grow by the same."""
    xyz = _to_xyz(image) / WHITE[None, None]
    roots = jnp.where(xyz > KNEE, jnp.cbrt(xyz), (SLOPE * xyz + 16.0) / 116.0)
    root = roots[..., 1:2]
    lightness = (116.0 * root - 16.0) / 100.0
    roots += (100.0 * change(lightness) + 16.0) / 116.0 - root
    low = (116.0 * roots - 16.0) / SLOPE
    xyz = jnp.where(roots**3 > KNEE, roots**3, low)
    return _to_rgb(xyz * WHITE[None, None])


def change_luv(image: jax.Array, change: Change) -> jax.Array:
    """In CIE 1976 L*u*v*: the chromaticity's distance to white shrinks as it grows."""
    x, y, z = jnp.split(_to_xyz(image), 3, axis=-1)
    root = jnp.where(y > KNEE, jnp.cbrt(y), (SLOPE * y + 16.0) / 116.0)
    old = 1.16 * root - 0.16
    new = change(old)
    light = x + 15.0 * y + 3.0 * z
    white = WHITE[0] + 15.0 * WHITE[1] + 3.0 * WHITE[2]
    white_u, white_v = 4.0 * WHITE[0] / white, 9.0 * WHITE[1] / white
    some = (light > 0) & (old > 0) & (new > 0)
    light, ratio = (
        jnp.where(some, a, 1.0) for a in (light, old / jnp.where(some, new, 1.0))
    )
    u = white_u + jnp.where(some, ratio * (4.0 * x / light - white_u), 0.0)
    v = white_v + jnp.where(some, ratio * (9.0 * y / light - white_v), 0.0)
    root = (new + 0.16) / 1.16
    y = jnp.where(root**3 > KNEE, root**3, 100.0 * new / SLOPE)
    v = jnp.maximum(v, 1e-3)
    x, z = y * 9.0 * u / (4.0 * v), y * (12.0 - 3.0 * u - 20.0 * v) / (4.0 * v)
    return _to_rgb(jnp.concatenate([x, y, z], axis=-1))


# The six of imgaug's `MultiplyAndAddToBrightness`; YCrCb and YUV have the same luma.
COLOUR_SPACES = (
    change_luma,
    change_value,
    change_lightness,
    change_lab,
    change_luv,
    change_luma,
)


def _to_xyz(image: jax.Array) -> jax.Array:
    high = jnp.power((jnp.maximum(image, 0.0) + 0.055) / 1.055, 2.4)
    return _mixed(jnp.where(image > 0.04045, high, image / 12.92), TO_XYZ)


def _to_rgb(xyz: jax.Array) -> jax.Array:
    linear = jnp.clip(_mixed(xyz, TO_RGB), 0.0, 1.0)
    high = 1.055 * jnp.power(jnp.maximum(linear, 1e-6), 1 / 2.4) - 0.055
    return jnp.where(linear > 0.0031308, high, 12.92 * linear)


def _mixed(image: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Returns the matrix times each pixel, in sums rather than a product of matrices.

    Accelerators would round the latter's factors.
    """
    terms = [image[..., i : i + 1] * matrix[:, i][None, None] for i in range(3)]
    return terms[0] + terms[1] + terms[2]
