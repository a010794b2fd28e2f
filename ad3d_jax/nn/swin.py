"""The blocks of a shifted-window transformer, on token grids [B,H,W,C]."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.ops.dropout import drop_path, layer_keys

kernel_init = nn.initializers.truncated_normal(0.02)


def layer_norm(dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """Returns a layer norm of epsilon 1e-5 with exact statistics in float32."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)


def dense(
    features: int, dtype: jnp.dtype, name: str, use_bias: bool = True
) -> nn.Dense:
    """Returns a linear layer with the transformer's initialisation."""
    return nn.Dense(
        features, use_bias=use_bias, kernel_init=kernel_init, dtype=dtype, name=name
    )


def depth_to_space(x: Array, factor: int) -> Array:
    """Returns [B,H*f,W*f,C/f^2] from [B,H,W,C], a channel being (row, column, rest)."""
    rows, height, width, channels = x.shape
    rest = channels // factor**2
    x = x.reshape(rows, height, width, factor, factor, rest).swapaxes(2, 3)
    return x.reshape(rows, height * factor, width * factor, rest)


def windows(x: Array, side: int) -> Array:
    """Returns [B,windows,side^2,C] from [B,H,W,C], windows and tokens row by row."""
    rows, height, width, channels = x.shape
    x = x.reshape(rows, height // side, side, width // side, side, channels)
    return x.swapaxes(2, 3).reshape(rows, -1, side * side, channels)


def unwindows(x: Array, height: int, width: int) -> Array:
    """Returns [B,H,W,C] from the result of `windows`."""
    rows, _, tokens, channels = x.shape
    side = int(np.sqrt(tokens))
    x = x.reshape(rows, height // side, width // side, side, side, channels)
    return x.swapaxes(2, 3).reshape(rows, height, width, channels)


def relative_index(side: int) -> np.ndarray:
    """Returns [side^2,side^2] rows of the table of (2 side - 1)^2 offsets."""
    place = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    place = place.reshape(2, -1)
    offset = place[:, :, None] - place[:, None, :] + side - 1
    return offset[0] * (2 * side - 1) + offset[1]


def same_region(height: int, width: int, side: int, shift: int) -> np.ndarray:
    """Returns [windows,side^2,side^2] bool: which tokens of a window may attend.

    After a cyclic shift the last windows hold tokens of opposite borders, which must
    not see each other.
    """

    def bands(n):
        return np.searchsorted([n - side, n - shift], np.arange(n), side="right")

    region = bands(height)[:, None] * 3 + bands(width)[None, :]
    region = region.reshape(height // side, side, width // side, side)
    region = region.swapaxes(1, 2).reshape(-1, side * side)
    return region[:, :, None] == region[:, None, :]


class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window, with relative position bias."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, allowed: np.ndarray | None = None) -> Array:
        """Returns [B,windows,N,C] from [B,windows,N,C].

        Args:
            x: the tokens, N a square number.
            allowed: [windows,N,N] bool; None lets all tokens of a window attend.
        """
        rows, count, tokens, channels = x.shape
        side = int(np.sqrt(tokens))
        qkv = dense(3 * channels, self.dtype, "qkv")(x)
        qkv = qkv.reshape(rows, count, tokens, 3, self.heads, channels // self.heads)
        q, k, v = qkv[:, :, :, 0], qkv[:, :, :, 1], qkv[:, :, :, 2]
        table = self.param("bias", kernel_init, ((2 * side - 1) ** 2, self.heads))
        bias = table[relative_index(side)].transpose(2, 0, 1)
        scale = (channels // self.heads) ** -0.5
        logits = jnp.einsum("bwnhc,bwmhc->bwhnm", q * scale, k).astype(jnp.float32)
        logits = logits + bias[None, None]
        if allowed is not None:
            logits = logits + np.where(allowed, 0.0, -100.0)[None, :, None].astype("f4")
        share = jax.nn.softmax(logits, -1).astype(self.dtype)
        y = jnp.einsum("bwhnm,bwmhc->bwnhc", share, v)
        return dense(channels, self.dtype, "out")(y.reshape(x.shape))


class SwinBlock(nn.Module):
    """Windowed attention and a two-layer perceptron, each normed first and residual.

    Reference: Liu et al., arXiv 2103.14030.
    """

    heads: int
    window: int
    shifted: bool
    mlp_ratio: int = 4
    drop_path: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        """Returns [B,H,W,C] from [B,H,W,C]; keys [B] of stochastic depth or None."""
        height, width, channels = x.shape[1:]
        side, shift = self.window, self.window // 2 if self.shifted else 0
        if min(height, width) <= side:
            side, shift = min(height, width), 0
        y = layer_norm(self.dtype, "norm_1")(x)
        allowed = same_region(height, width, side, shift) if shift else None
        y = jnp.roll(y, (-shift, -shift), (1, 2)) if shift else y
        y = WindowAttention(self.heads, self.dtype, name="attention")(
            windows(y, side), allowed
        )
        y = unwindows(y, height, width)
        y = jnp.roll(y, (shift, shift), (1, 2)) if shift else y
        x = x + self._dropped(y, keys, 0)
        y = layer_norm(self.dtype, "norm_2")(x)
        y = dense(self.mlp_ratio * channels, self.dtype, "mlp_1")(y)
        y = dense(channels, self.dtype, "mlp_2")(nn.gelu(y, approximate=False))
        return x + self._dropped(y, keys, 1)

    def _dropped(self, y: Array, keys: Array | None, part: int) -> Array:
        if keys is None or self.drop_path == 0.0:
            return y
        return drop_path(layer_keys(keys, part), y, self.drop_path)


class PatchMerging(nn.Module):
    """Halves the grid and doubles the channels: [B,H,W,C] to [B,H/2,W/2,2C]."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the merged tokens; the cells are read column by column."""
        rows, height, width, channels = x.shape
        x = x.reshape(rows, height // 2, 2, width // 2, 2, channels)
        x = x.transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(rows, height // 2, width // 2, 4 * channels)
        x = layer_norm(self.dtype, "norm")(x)
        return dense(2 * channels, self.dtype, "linear", use_bias=False)(x)


class PatchExpand(nn.Module):
    """Enlarges the grid: [B,H,W,C] to [B,H*factor,W*factor,features]."""

    factor: int
    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the expanded tokens."""
        features = self.features * self.factor**2
        x = dense(features, self.dtype, "linear", use_bias=False)(x)
        return layer_norm(self.dtype, "norm")(depth_to_space(x, self.factor))
