"""Simulated depth, for a pretraining that has no depth images."""

import jax
import jax.numpy as jnp

from ad3d_jax.ops.perlin import rotated_perlin_noise


def simulate_depth(
    keys: jax.Array, height: int, width: int, affine: bool = True
) -> jax.Array:
    """Returns smooth random depth in [0,1], [B,H,W,1] float32.

    Rotated Perlin noise, stretched to [0,1]; with `affine` to [beta, alpha + beta],
    alpha from U(0,1) and beta from U(0, 1 - alpha), since a scanned object fills a part
    of the range only.

    Args:
        keys: [B] typed keys; a row depends on its own key alone.
        height: H.
        width: W.
        affine: whether the range is drawn; else it is all of [0,1].

    Source: 3DSR (arXiv 2311.01117), §3.1 and its public code.
    """

    def draw(key):
        noise_key, range_key = jax.random.split(key)
        noise = rotated_perlin_noise(noise_key, height, width)
        lowest = jnp.min(noise)
        span = jnp.maximum(jnp.max(noise) - lowest, jnp.finfo(jnp.float32).tiny)
        noise = (noise - lowest) / span
        if not affine:
            return noise
        alpha, position = jax.random.uniform(range_key, (2,))
        return alpha * noise + position * (1.0 - alpha)

    return jax.vmap(draw)(keys)[..., None]
