"""SimpleNet's head: a linear adaptor and a two-layer discriminator of features."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.batch_norm import BatchNorm
from ad3d_jax.nn.rows import SCORING, Rows

dense = partial(
    nn.Dense,
    kernel_init=nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    precision=jax.lax.Precision.HIGHEST,
)


def uniform_bias(fan_in: int) -> nn.initializers.Initializer:
    """Returns PyTorch's initialiser of biases, U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def draw(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


class Adaptor(nn.Module):
    """One linear layer on every patch, of as many outputs as inputs (sheet §3)."""

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,h,w,D] of x [B,h,w,D] float32; the rows are independent."""
        dimensions = x.shape[-1]
        return dense(dimensions, bias_init=uniform_bias(dimensions))(x)


class FeatureDiscriminator(nn.Module):
    """Linear, batch norm, leaky ReLU, linear without bias: high for normal features."""

    hidden: int = 1024

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,h,w,1] of x [B,h,w,D] float32."""
        x = dense(self.hidden, bias_init=uniform_bias(x.shape[-1]))(x)
        x = BatchNorm()(x, rows)
        x = nn.leaky_relu(x, 0.2)
        return dense(1, use_bias=False)(x)
