"""Perlin noise."""

import jax
import jax.numpy as jnp

from ad3d_jax.ops.rotate import rotate

MAX_EXPONENT = 5


def perlin_noise(
    key: jax.Array, height: int, width: int, exponents: tuple = (0, MAX_EXPONENT)
) -> jax.Array:
    """Returns gradient noise of a random frequency, [H,W] float32 in (-1,1).

    The frequencies along the two axes are 2^a and 2^b lattice cells an image, a and b
    drawn independently and uniformly from the whole numbers of `exponents`. Gradients
    are unit vectors at uniform angles, the fade is quintic, the result is scaled by
    sqrt(2).

    Args:
        key: typed key.
        height: of the result, any positive number.
        width: of the result, any positive number.
        exponents: (lowest, highest), both included, 0 <= lowest <= highest <= 5;
            numbers or 0-d integer arrays.

    Raises:
        ValueError: exponents given as numbers leave that range.

    Source: Perlin, "Improving noise", SIGGRAPH 2002, and DRAEM (arXiv 2108.07610).
    """
    low, high = exponents
    if all(isinstance(e, int) for e in exponents) and not 0 <= low <= high <= 5:
        raise ValueError(
            f"exponents: expected 0 <= lowest <= highest <= {MAX_EXPONENT}, "
            f"found {exponents}"
        )
    exponent_key, angle_key = jax.random.split(key)
    cells = 1 << jax.random.randint(exponent_key, (2,), low, high + 1)
    nodes = 2**MAX_EXPONENT + 1
    angles = jax.random.uniform(angle_key, (nodes, nodes), maxval=2 * jnp.pi)
    fade_y, ramp_y = _node_weights(height, cells[0], nodes)
    fade_x, ramp_x = _node_weights(width, cells[1], nodes)
    # A node adds fade_y * fade_x * (gradient . offset): two separable terms.
    precision = jax.lax.Precision.HIGHEST

    def spread(rows, lattice, columns):
        return jnp.linalg.multi_dot([rows, lattice, columns.T], precision=precision)

    noise = spread(ramp_y, jnp.sin(angles), fade_x)
    noise += spread(fade_y, jnp.cos(angles), ramp_x)
    return jnp.sqrt(2.0) * noise


def rotated_perlin_noise(
    key: jax.Array,
    height: int,
    width: int,
    rotation: jax.Array | float = 90.0,
    exponents: tuple = (0, MAX_EXPONENT),
) -> jax.Array:
    """Returns Perlin noise turned by U(-rotation, rotation) degrees, [H,W] float32.

    Bilinear, zero where the turned image does not reach. Above 0.5 lie about 4.8 % of
    the pixels, and in about 3.7 % of the draws none.

    Source: DRAEM (arXiv 2108.07610).
    """
    noise_key, rotation_key = jax.random.split(key)
    noise = perlin_noise(noise_key, height, width, exponents)
    degrees = jax.random.uniform(rotation_key, (), minval=-1.0) * rotation
    return rotate(noise[..., None], degrees)[..., 0]


def _node_weights(length: int, cells: jax.Array, nodes: int):
    """Returns a node's faded weight and weight times offset, both [length, nodes]."""
    positions = jnp.arange(length, dtype=jnp.float32) * (cells / length)
    offset = positions[:, None] - jnp.arange(nodes, dtype=jnp.float32)[None, :]
    t = jnp.minimum(jnp.abs(offset), 1.0)
    weight = 1.0 - t**3 * (t * (6.0 * t - 15.0) + 10.0)
    return weight, weight * offset
