"""SimpleNet's head: a linear adaptor and a two-layer discriminator of features."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import ALONE, Across, Array
from ad3d_jax.nn.batch_norm import BatchNorm

HIGHEST = jax.lax.Precision.HIGHEST


def uniform_bias(fan_in: int) -> nn.initializers.Initializer:
    """Returns PyTorch's initialiser of biases, U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def draw(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


class Adaptor(nn.Module):
    """One linear layer on every patch, of as many outputs as inputs (sheet §3)."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B,h,w,D] of x [B,h,w,D] float32."""
        dimensions = x.shape[-1]
        return nn.Dense(
            dimensions,
            kernel_init=nn.initializers.xavier_normal(),
            bias_init=uniform_bias(dimensions),
            precision=HIGHEST,
        )(x)


class FeatureDiscriminator(nn.Module):
    """Linear, batch norm, leaky ReLU, linear without bias: high for normal features."""

    hidden: int = 1024

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        weight: Array | None = None,
        across: Across = ALONE,
    ) -> Array:
        """Returns [B,h,w,1] of x [B,h,w,D] float32; arguments as `BatchNorm`'s."""
        x = nn.Dense(
            self.hidden,
            kernel_init=nn.initializers.xavier_normal(),
            bias_init=uniform_bias(x.shape[-1]),
            precision=HIGHEST,
        )(x)
        x = BatchNorm()(x, train, weight, across)
        x = nn.leaky_relu(x, 0.2)
        return nn.Dense(
            1,
            use_bias=False,
            kernel_init=nn.initializers.xavier_normal(),
            precision=HIGHEST,
        )(x)
