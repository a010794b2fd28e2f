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
    """BN-ReLU-conv3x3 twice, beside a 1x1 convolution.

    Reference: Zhang et al., arXiv 1711.10684.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,H,W,features] from [B,H,W,C]."""
        shortcut = Conv(self.features, (1, 1), dtype=self.dtype, name="shortcut")(x)
        for n in (1, 2):
            norm = BatchNorm(dtype=self.dtype, name=f"norm_{n}")
            conv = conv3x3(
                self.features, self.dtype, f"conv_{n}", kernel_init=_kernel_init
            )
            x = conv(nn.relu(norm(x, rows)))
        return shortcut + x


class ResUnet(nn.Module):
    """A residual U-Net that restores an image at several resolutions.

    The skips of the shallowest levels pass through dropout of the rates `skip_dropout`,
    at test time as well; a rate of 1 leaves the skip out.

    Reference: named in Table III of arXiv 2311.06797; the layers are those of arXiv
    1711.10684, the heads and skip dropout those of the Swin-Unet.
    """

    out_channels: int
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    skip_dropout: tuple[float, ...] = (0.6, 0.4, 0.2)
    scales: int = 3
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
            layer = ResidualUnit(self.widths[level], self.dtype, name=f"{name}{level}")
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
