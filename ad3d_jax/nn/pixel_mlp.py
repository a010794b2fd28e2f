"""EasyNet's segmentation network: perceptrons over the features of every pixel."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.auto_encoder import AutoEncoder, scaled
from ad3d_jax.nn.batch_norm import BatchNorm
from ad3d_jax.nn.conv import Conv, kernel_init, scale_init
from ad3d_jax.nn.rows import SCORING, Rows
from ad3d_jax.ops.resize import resize_bilinear

SLOPE = 0.2  # of the leaky ReLU


class PixelMlp(nn.Module):
    """1x1 convolutions of `widths` features.

    Batch normalisation and a leaky ReLU follow each of them, the last one too.

    Reference: Chen et al., arXiv 2307.13925, and its public code.
    """

    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,H,W,widths[-1]] from [B,H,W,C]."""
        for number, features in enumerate(self.widths):
            conv = Conv(
                features,
                (1, 1),
                dtype=self.dtype,
                kernel_init=kernel_init,
                name=f"conv{number}",
            )
            norm = BatchNorm(
                scale_init=scale_init, dtype=self.dtype, name=f"norm{number}"
            )
            x = nn.leaky_relu(norm(conv(x), rows), SLOPE)
        return x


class ComparedAutoEncoder(nn.Module):
    """An auto-encoder and the comparison of its early features with its late ones.

    Level 1 joins the first block with the last stage, level 2 the second block with the
    last stage but one, and so on. One level stays as it is; of several, each passes a
    `PixelMlp` of `mlp_width` features and is enlarged to the size of the first. The
    auto-encoder halves the image `halvings` times.

    Reference: Chen et al., arXiv 2307.13925: one modality of the reconstruction network
    and of the segmentation network as far as they are apart.
    """

    width: int
    levels: int
    mlp_width: int
    out_channels: int
    halvings: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> tuple[Array, Array]:
        """Returns (restored [B,H,W,out_channels] float32, compared [B,H,W,D]).

        x is [B,H,W,C]; H and W must be divisible by 2^halvings.
        """
        widths, stages = scaled(self.width, self.halvings)
        restore = AutoEncoder(
            widths, stages, self.out_channels, dtype=self.dtype, name="restore"
        )
        restored, features = restore(x, rows)
        early, late = features.encoder, features.decoder[::-1]
        compared = []
        for level in range(self.levels):
            pair = jnp.concatenate([early[level], late[level]], axis=-1)
            if self.levels > 1:
                mlp = PixelMlp((self.mlp_width,), self.dtype, name=f"level{level + 1}")
                pair = mlp(pair, rows)
            compared.append(resize_bilinear(pair, x.shape[1:3]))
        return restored, jnp.concatenate(compared, axis=-1)
