"""Instance normalisation."""

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array


def instance_norm(x: Array, epsilon: float = 1e-5) -> Array:
    """Returns `x` [B,H,W,C] with each channel of each image at mean 0 and variance 1.

    The variance is the biased one, there are no parameters and no running statistics,
    as in PyTorch's InstanceNorm2d. Computed in float32, returned in the type of `x`.

    Reference: Ulyanov et al., arXiv 1607.08022.
    """
    values = x.astype(jnp.float32)
    centred = values - values.mean((1, 2), keepdims=True)
    variance = (centred**2).mean((1, 2), keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)
