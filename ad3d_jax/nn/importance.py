"""The parts of DBRN that weigh the evidence of two modalities against each other."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.conv import Conv, ConvNormRelu
from ad3d_jax.nn.rows import SCORING, Rows


class PairEmbed(nn.Module):
    """Encodes a channel next to its reconstruction; one for all channels.

    In training call it once, with all the channels concatenated along the rows, so that
    its batch statistics cover them all.

    Reference: Bi et al., arXiv 2311.06797 (the patch embedding).
    """

    features: int = 64
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pair: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,H/stride,W/stride,features] from pairs [B,H,W,2]."""
        embed = ConvNormRelu(
            self.features, stride=self.stride, dtype=self.dtype, name="embed"
        )
        return embed(pair, rows)


class ImportanceScoring(nn.Module):
    """Mixes the features of two modalities by scores of their importance.

    Without `each_channel` a pixel's two scores come from a softmax and weigh all
    channels alike; with it every channel has two scores of its own, between 0 and 1.

    Reference: Bi et al., arXiv 2311.06797, equations 3 and 4.
    """

    features: int = 64
    each_channel: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, first: Array, second: Array, rows: Rows = SCORING
    ) -> tuple[Array, Array]:
        """Returns (fused [B,H,W,features], weights [B,H,W,2] float32).

        `first` and `second` are [B,H,W,features]. Weight 0 belongs to `first`. The two
        of a pixel sum to 1; with `each_channel` they are means over the channels.
        """
        x = jnp.concatenate([first, second], -1)
        hidden = ConvNormRelu(2 * self.features, dtype=self.dtype, name="hidden")
        scores = 2 * self.features if self.each_channel else 2
        score = Conv(scores, (3, 3), padding=1, dtype=self.dtype, name="score")
        logits = score(hidden(x, rows))
        if self.each_channel:
            weights = jnp.split(nn.sigmoid(logits.astype(jnp.float32)), 2, axis=-1)
            fused = sum(
                w.astype(self.dtype) * features
                for w, features in zip(weights, (first, second), strict=True)
            )
            return fused, jnp.stack([jnp.mean(w, axis=-1) for w in weights], axis=-1)
        weights = jax.nn.softmax(logits.astype(jnp.float32), -1)
        # second + w (first - second): equal inputs come back without rounding.
        share = weights[..., :1].astype(self.dtype)
        return second + share * (first - second), weights


class ConcatFusion(nn.Module):
    """Mixes the features of two modalities by a 1x1 convolution (Table V)."""

    features: int = 64
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, first: Array, second: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,H,W,features] from two of the same shape."""
        mix = nn.Dense(self.features, dtype=self.dtype, name="mix")
        return mix(jnp.concatenate([first, second], -1))
