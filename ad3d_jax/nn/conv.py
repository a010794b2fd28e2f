"""The convolutional layer that DRAEM's networks and their successors consist of."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import ALONE, Across, Array
from ad3d_jax.nn.batch_norm import BatchNorm
from ad3d_jax.nn.instance_norm import instance_norm
from ad3d_jax.ops.conv import AXES, conv_same

Layer = Callable[[Array, int, str], Array]
kernel_init = nn.initializers.normal(0.02)


def scale_init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Returns N(1, 0.02), what the scales of normalisations start at."""
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class ConvNormRelu(nn.Module):
    """A 3x3 convolution, a normalisation ("batch" or "instance") and ReLU.

    Kernels start at N(0, 0.02), scales at N(1, 0.02), biases at 0, as in DRAEM.
    """

    features: int
    stride: int = 1
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        weight: Array | None = None,
        across: Across = ALONE,
    ) -> Array:
        """Returns [B,H/stride,W/stride,features] from [B,H,W,C].

        Raises:
            ValueError: if the normalisation is unknown.
        """
        x = conv3x3(self.features, self.dtype, "conv", self.stride)(x)
        if self.norm == "batch":
            norm = BatchNorm(scale_init=scale_init, dtype=self.dtype, name="norm")
            return nn.relu(norm(x, train, weight, across))
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
    return nn.Conv(
        features,
        (3, 3),
        stride,
        padding=1,
        dtype=dtype,
        kernel_init=kernel_init,
        conv_general_dilated=convolve,
        name=name,
    )


def convolve(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dimension_numbers: object = AXES,
    **options: object,
) -> Array:
    """Returns `jax.lax.conv_general_dilated`, by `conv_same` where that is the same.

    For layers without dilations and groups, of the default precision, with the axes
    [B,H,W,C] and [h,w,I,O]: `options`, which flax gives, are at their defaults.
    """
    sides = kernel.shape[:2]
    border = tuple((side // 2, side // 2) for side in sides)
    odd = all(side % 2 for side in sides)
    if odd and tuple(padding) == border and max(strides) == 1:
        return conv_same(x, kernel)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=dimension_numbers,
        **options,
    )


def layers(
    norm: str,
    dtype: jnp.dtype,
    train: bool,
    weight: Array | None,
    across: Across,
) -> Layer:
    """Returns layer(x, features, name), which applies a new `ConvNormRelu`.

    To be called inside a compact module, whose part the layer becomes.
    """

    def layer(x: Array, features: int, name: str) -> Array:
        conv = ConvNormRelu(features, norm=norm, dtype=dtype, name=name)
        return conv(x, train, weight, across)

    return layer
