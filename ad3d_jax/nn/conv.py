"""The convolutional layer that DRAEM's networks and their successors consist of."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.batch_norm import BatchNorm
from ad3d_jax.nn.rows import SCORING, Rows
from ad3d_jax.ops import conv
from ad3d_jax.ops.instance_norm import instance_norm

Layer = Callable[[Array, int, str], Array]
kernel_init = nn.initializers.normal(0.02)


def _convolve(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: object,
    feature_group_count: int,
    precision: object,
) -> Array:
    """Returns `ops.conv.conv`, which has nothing but strides and a padding.

    Raises:
        ValueError: the layer is dilated, in groups or of another precision.
    """
    del dimension_numbers  # flax's own, [B,H,W,C] and [h,w,I,O]
    if max(*lhs_dilation, *rhs_dilation, feature_group_count) > 1 or precision:
        raise ValueError(
            "Conv has no dilation, no groups and the default precision, found "
            f"{lhs_dilation}, {rhs_dilation}, {feature_group_count} and {precision}"
        )
    border = padding if isinstance(padding, str) else tuple(padding)
    return conv.conv(x, kernel, tuple(strides), border)


Conv = partial(nn.Conv, conv_general_dilated=_convolve)


def scale_init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Returns N(1, 0.02), what the scales of normalisations start at."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class ConvNormRelu(nn.Module):
    """A 3x3 convolution, a normalisation ("batch" or "instance") and ReLU.

    Kernels start at N(0, 0.02), scales at N(1, 0.02), biases at 0, as in DRAEM.
    """

    features: int
    norm: str = "batch"
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,H/stride,W/stride,features] from [B,H,W,C].

        Raises:
            ValueError: if the normalisation is unknown.
        """
        x = conv3x3(self.features, self.dtype, "conv", self.stride)(x)
        if self.norm == "batch":
            norm = BatchNorm(scale_init=scale_init, dtype=self.dtype, name="norm")
            return nn.relu(norm(x, rows))
        if self.norm == "instance":
            return nn.relu(instance_norm(x))
        raise ValueError(f"norm must be 'batch' or 'instance', found {self.norm!r}")


def conv3x3(
    features: int,
    dtype: jnp.dtype,
    name: str,
    stride: int = 1,
    kernel_init: nn.initializers.Initializer = kernel_init,
) -> nn.Conv:
    """Returns a 3x3 convolution with a border of 1; kernels by default N(0, 0.02)."""
    return Conv(
        features,
        (3, 3),
        stride,
        padding=1,
        dtype=dtype,
        kernel_init=kernel_init,
        name=name,
    )


def layers(norm: str, dtype: jnp.dtype, rows: Rows) -> Layer:
    """Returns layer(x, features, name), which applies a new `ConvNormRelu`.

    To be called inside a compact module, whose part the layer becomes.
    """

    def layer(x: Array, features: int, name: str) -> Array:
        conv = ConvNormRelu(features, norm=norm, dtype=dtype, name=name)
        return conv(x, rows)

    return layer
