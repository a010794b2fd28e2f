"""The block of a transformer that norms first, on tokens [B,N,C]."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.ops.dropout import drop_path, layer_keys

HIGHEST = jax.lax.Precision.HIGHEST
kernel_init = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normed first and residual.

    Reference: Dosovitskiy et al., arXiv 2010.11929; names as in timm.
    """

    heads: int
    mlp_ratio: int = 4
    qkv_bias: bool = True
    epsilon: float = 1e-6  # of the norms
    drop_path: float = 0.0  # rate of stochastic depth

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None) -> Array:
        """Returns [B,N,C] from [B,N,C]; keys [B] of stochastic depth, None = none."""
        width = x.shape[-1]
        y = Attention(self.heads, self.qkv_bias, name="attn")(
            layer_norm(self.epsilon, "norm1")(x)
        )
        x = x + self._dropped(y, keys, 0)
        y = dense(self.mlp_ratio * width, "fc1")(layer_norm(self.epsilon, "norm2")(x))
        y = dense(width, "fc2")(nn.gelu(y, approximate=False))
        return x + self._dropped(y, keys, 1)

    def _dropped(self, y: Array, keys: Array | None, part: int) -> Array:
        if keys is None or self.drop_path == 0.0:
            return y
        return drop_path(layer_keys(keys, part), y, self.drop_path)


class Attention(nn.Module):
    """Multi-head self-attention; q, k and v follow each other in one projection."""

    heads: int
    qkv_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B,N,C] from [B,N,C]."""
        rows, tokens, width = x.shape
        qkv = dense(3 * width, "qkv", self.qkv_bias)(x)
        qkv = qkv.reshape(rows, tokens, 3, self.heads, width // self.heads)
        q, k, v = jnp.unstack(qkv, axis=2)
        q = q * (width // self.heads) ** -0.5
        logits = jnp.einsum("bnhc,bmhc->bhnm", q, k, precision=HIGHEST)
        share = jax.nn.softmax(logits, axis=-1)
        y = jnp.einsum("bhnm,bmhc->bnhc", share, v, precision=HIGHEST)
        return dense(width, "proj")(y.reshape(x.shape))


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Returns a layer norm with exact statistics."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


def dense(features: int, name: str, use_bias: bool = True) -> nn.Dense:
    """Returns a linear layer in full float32."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        precision=HIGHEST,
        kernel_init=kernel_init,
        name=name,
    )
