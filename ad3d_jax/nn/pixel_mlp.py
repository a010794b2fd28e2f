"""EasyNet's segmentation network: perceptrons over the features of every pixel."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import ALONE, Across, Array
from ad3d_jax.nn.auto_encoder import Features
from ad3d_jax.nn.batch_norm import BatchNorm
from ad3d_jax.nn.conv import kernel_init, scale_init
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
    def __call__(
        self,
        x: Array,
        train: bool,
        weight: Array | None = None,
        across: Across = ALONE,
    ) -> Array:
        """Returns [B,H,W,widths[-1]] from [B,H,W,C]."""
        for number, features in enumerate(self.widths):
            conv = nn.Conv(
                features,
                (1, 1),
                dtype=self.dtype,
                kernel_init=kernel_init,
                name=f"conv{number}",
            )
            norm = BatchNorm(
                scale_init=scale_init, dtype=self.dtype, name=f"norm{number}"
            )
            x = nn.leaky_relu(norm(conv(x), train, weight, across), SLOPE)
        return x


class FeatureComparison(nn.Module):
    """Early features of an auto-encoder beside late ones of the same resolution.

    Level 1 joins the first block with the last stage, level 2 the second block with the
    last stage but one, and so on. One level stays as it is; of several, each passes a
    `PixelMlp` of `width` features and is enlarged to the first one's size.

    Reference: Chen et al., arXiv 2307.13925 (the multi-modality segmentation network).
    """

    levels: int = 2
    width: int = 512
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Features,
        train: bool,
        weight: Array | None = None,
        across: Across = ALONE,
    ) -> Array:
        """Returns [B,H,W,C], the levels side by side."""
        early, late = features.encoder, features.decoder[::-1]
        pairs = [
            jnp.concatenate([early[level], late[level]], axis=-1)
            for level in range(self.levels)
        ]
        if self.levels == 1:
            return pairs[0]
        size = early[0].shape[1:3]
        compared = []
        for level, pair in enumerate(pairs):
            mlp = PixelMlp((self.width,), self.dtype, name=f"level{level + 1}")
            compared.append(resize_bilinear(mlp(pair, train, weight, across), size))
        return jnp.concatenate(compared, axis=-1)
