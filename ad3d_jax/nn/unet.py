"""The U-Net that DRAEM and its successors segment with."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import ALONE, Across, Array
from ad3d_jax.nn.batch_norm import BatchNorm
from ad3d_jax.nn.rescale import double, max_pool

_kernel_init = nn.initializers.normal(0.02)


def _scale_init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class ConvNormRelu(nn.Module):
    """A 3x3 convolution, batch normalisation and ReLU."""

    features: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        weight: Array | None = None,
        across: Across = ALONE,
    ) -> Array:
        """Returns [B,H/stride,W/stride,features] from [B,H,W,C]."""
        x = nn.Conv(
            self.features,
            (3, 3),
            self.stride,
            padding=1,
            dtype=self.dtype,
            kernel_init=_kernel_init,
            name="conv",
        )(x)
        norm = BatchNorm(scale_init=_scale_init, dtype=self.dtype, name="norm")
        return nn.relu(norm(x, train, weight, across))


class UNet(nn.Module):
    """DRAEM's discriminative network.

    Blocks of two convolutions of `widths` features, halved by max-pools; on the way up
    each level is doubled bilinearly, convolved, joined with its skip and convolved
    twice, at the width of the level above it (the uppermost two at `widths[0]`). With
    `first_convs` = 1 the first block has one convolution, which completes a block whose
    first one is the caller's patch embedding.

    Reference: Zavrtanik et al., arXiv 2108.07610, with its initialisation: kernels
    N(0, 0.02), scales N(1, 0.02), biases 0.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    out_channels: int = 2
    first_convs: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        train: bool,
        weight: Array | None = None,
        across: Across = ALONE,
    ) -> Array:
        """Returns logits [B,H,W,out_channels] float32.

        Args:
            x: [B,H,W,C]; H and W must be divisible by 2^(len(widths) - 1).
            train: whether batch normalisation uses the batch's statistics.
            weight: [B], 0 for rows that do not count.
            across: the sum over devices.

        Raises:
            ValueError: if H or W is not divisible.
        """
        levels = len(self.widths) - 1
        divisible("UNet", x.shape, 2**levels)

        def convs(x, features, count, name):
            for n in range(count):
                layer = ConvNormRelu(features, dtype=self.dtype, name=f"{name}_{n + 1}")
                x = layer(x, train, weight, across)
            return x

        skips = []
        for level, features in enumerate(self.widths):
            x = max_pool(x) if level else x
            x = convs(x, features, 2 if level else self.first_convs, f"down{level}")
            skips.append(x)
        for level in reversed(range(levels)):
            features = self.widths[max(level - 1, 0)]
            x = convs(double(x), features, 1, f"enlarge{level}")
            x = jnp.concatenate([x, skips[level]], -1)
            x = convs(x, features, 2, f"up{level}")
        head = nn.Conv(
            self.out_channels,
            (3, 3),
            padding=1,
            dtype=self.dtype,
            kernel_init=_kernel_init,
            name="head",
        )
        return head(x).astype(jnp.float32)


def divisible(network: str, shape: tuple[int, ...], factor: int):
    """Raises a ValueError unless height and width of `shape` divide by `factor`."""
    _, height, width, _ = shape
    if height % factor or width % factor:
        raise ValueError(
            f"{network}: height and width of the input must be divisible by {factor}, "
            f"found {height}x{width}"
        )
