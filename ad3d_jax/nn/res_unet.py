"""The residual U-Net that DBRN's tables name as a reconstruction network."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.batch_norm import BatchNorm
from ad3d_jax.nn.conv import Conv, conv3x3
from ad3d_jax.nn.rows import SCORING, Rows
from ad3d_jax.ops.dropout import dropout, layer_keys
from ad3d_jax.ops.rescale import divisible, double, max_pool

_kernel_init = nn.initializers.he_normal()


class ResidualUnit(nn.Module):
    """Two convolutions 3x3 beside one 1x1.

    "conv_first" is conv-BN-ReLU-conv-BN, then the sum with conv-BN of the input, then
    ReLU (He et al., arXiv 1512.03385); "norm_first" is BN-ReLU-conv twice, then the sum
    with conv of the input (Zhang et al., arXiv 1711.10684).
    """

    features: int
    order: str = "conv_first"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,H,W,features] from [B,H,W,C]."""
        shortcut = Conv(self.features, (1, 1), dtype=self.dtype, name="shortcut")(x)

        def norm(name):
            return BatchNorm(dtype=self.dtype, name=name)

        def conv(name):
            return conv3x3(self.features, self.dtype, name, kernel_init=_kernel_init)

        if self.order == "norm_first":
            for n in (1, 2):
                x = conv(f"conv_{n}")(nn.relu(norm(f"norm_{n}")(x, rows)))
            return shortcut + x
        x = nn.relu(norm("norm_1")(conv("conv_1")(x), rows))
        x = norm("norm_2")(conv("conv_2")(x), rows)
        return nn.relu(norm("norm_shortcut")(shortcut, rows) + x)


class ResUnet(nn.Module):
    """A residual U-Net that restores an image at several resolutions.

    The skips of the shallowest levels pass through dropout of the rates `skip_dropout`,
    at test time as well; a rate of 1 leaves the skip out.

    Reference: named in Table III of arXiv 2311.06797, which cites the Res-UNet of Xiao
    et al. 2018, a U-Net of ResNet's units; heads and skip dropout are those of the
    Swin-Unet.
    """

    out_channels: int
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    skip_dropout: tuple[float, ...] = (0.6, 0.4, 0.2)
    scales: int = 3
    order: str = "conv_first"  # of a unit's layers
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, keys: Array | None = None, rows: Rows = SCORING
    ) -> tuple[Array, ...]:
        """Returns `scales` images at 1/1, 1/4 and 1/8 of the size, float32.

        Args:
            x: [B,H,W,C]; H and W must be divisible by 2^(len(widths) - 1).
            keys: [B] typed keys of the skip dropout; None switches it off.

        Raises:
            ValueError: if H or W is not divisible.
        """
        levels = len(self.widths) - 1
        divisible("ResUnet", x.shape, 2**levels)

        def unit(x, level, name):
            layer = ResidualUnit(
                self.widths[level], self.order, self.dtype, name=f"{name}{level}"
            )
            return layer(x, rows)

        skips = []
        for level in range(levels):
            x = unit(x, level, "down")
            skips.append(x)
            x = max_pool(x)
        x = unit(x, levels, "down")
        images = {}
        for level in reversed(range(levels)):
            x = double(x)
            rate = self.skip_dropout[level] if level < len(self.skip_dropout) else 0.0
            if rate < 1:
                skip = skips[level]
                if keys is not None:
                    skip = dropout(layer_keys(keys, level), skip, rate)
                x = jnp.concatenate([x, skip], -1)
            x = unit(x, level, "up")
            if level in (0, 2, 3)[: self.scales]:
                head = nn.Dense(
                    self.out_channels, dtype=self.dtype, name=f"head{level}"
                )
                images[level] = head(x).astype(jnp.float32)
        return tuple(images[level] for level in sorted(images))
