"""Convolutions in groups of channels, and their transposed kind that doubles maps.

A group is convolved on its own: the CPU compiler is ten times slower with all groups
in one operation.
"""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.conv import kernel_init
from ad3d_jax.ops.conv import conv

Initializer = nn.initializers.Initializer


class GroupedConv(nn.Module):
    """A convolution of each group of channels; its kernel starts at N(0, 0.02)."""

    features: int  # of all groups
    kernel: int = 3  # side
    stride: int = 1
    padding: int = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = kernel_init
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B,H',W',features] from [B,H,W,C], as PyTorch's Conv2d."""

        def correlate(x, kernel):
            padding = ((self.padding, self.padding),) * 2
            return conv(x, kernel, (self.stride, self.stride), padding)

        return _by_group(self, correlate, x, self.kernel, self.use_bias)


class GroupedEnlarge(nn.Module):
    """A transposed convolution, 4x4 with stride 2, which doubles height and width.

    Equal to PyTorch's ConvTranspose2d(kernel_size=4, stride=2, padding=1) with the
    kernel turned by half a circle.
    """

    features: int  # of all groups
    groups: int = 1
    kernel_init: Initializer = kernel_init
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B,2H,2W,features] from [B,H,W,C]."""
        return _by_group(self, _enlarge, x, 4, True)


def _by_group(module: nn.Module, correlate, x: Array, side: int, use_bias: bool):
    """Returns the parts of `x` under their parts of the kernel, joined, plus a bias.

    To be called inside a compact module, whose parameters it makes.
    """
    groups, dtype = module.groups, module.dtype
    shape = (side, side, x.shape[-1] // groups, module.features)
    kernel = module.param("kernel", module.kernel_init, shape).astype(dtype)
    parts = zip(
        jnp.split(x.astype(dtype), groups, axis=-1),
        jnp.split(kernel, groups, axis=-1),
        strict=True,
    )
    y = jnp.concatenate([correlate(*part) for part in parts], axis=-1)
    if not use_bias:
        return y
    bias = module.param("bias", nn.initializers.zeros, (module.features,))
    return y + bias.astype(dtype)[None, None, None, :]


def _enlarge(x: Array, kernel: Array) -> Array:
    """Returns the transposed convolution [B,2H,2W,O] of [B,H,W,I] by [4,4,I,O].

    A row of the result lies between two rows of the input and sees only them, the even
    rows by the taps 0 and 2, the odd ones by 1 and 3; columns alike. So one 2x2
    convolution computes the four kinds of pixels, without the zeros of a dilation.
    """
    rows, height, width, channels = x.shape
    features = kernel.shape[-1]
    kernel = kernel.reshape(2, 2, 2, 2, channels, features)  # tap, parity, tap, parity
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5)
    # Padded first: the gradient of a convolution that pads itself is slow on a CPU.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = kernel.reshape(2, 2, channels, 4 * features)
    y = conv(x, kernel, padding="VALID")
    y = y.reshape(rows, height + 1, width + 1, 2, 2, features)
    y = jnp.stack([y[:, :-1, :, 0], y[:, 1:, :, 1]], axis=2)
    y = jnp.stack([y[:, :, :, :-1, 0], y[:, :, :, 1:, 1]], axis=4)
    return y.reshape(rows, 2 * height, 2 * width, features)
