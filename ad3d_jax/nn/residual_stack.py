"""The residual stack of the discrete auto-encoders."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.conv import kernel_init
from ad3d_jax.nn.grouped_conv import GroupedConv, Initializer


class ResidualStack(nn.Module):
    """Residual layers of a 3x3 and a 1x1 convolution without biases, then ReLU.

    `relu_skip`: whether the sum has relu(x) or x. The public 2-D networks and the
    object-specific decoders apply their first ReLU in place, which changes x too:
    y = relu(x) + f(relu(x)); DADA does not: y = x + f(relu(x)).

    Source: DSR (arXiv 2208.01521) and 3DSR (arXiv 2311.01117), public code.
    """

    residual: int  # width within a layer
    layers: int = 2
    relu_skip: bool = False
    groups: int = 1
    kernel_init: Initializer = kernel_init
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B,H,W,C] from the same."""
        shared = dict(
            groups=self.groups,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        features = x.shape[-1]
        for number in range(1, self.layers + 1):
            active = nn.relu(x)
            y = GroupedConv(self.residual, 3, name=f"wide{number}", **shared)(active)
            y = GroupedConv(features, 1, padding=0, name=f"point{number}", **shared)(
                nn.relu(y)
            )
            x = (active if self.relu_skip else x) + y
        return nn.relu(x)
