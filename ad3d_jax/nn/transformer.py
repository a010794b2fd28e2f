"""The block of a transformer that norms first, on tokens [B,N,C]."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.ops.dropout import drop_path, layer_keys

HIGHEST = jax.lax.Precision.HIGHEST


class Block(nn.Module):
    """Self-attention and a perceptron four times as wide, each normed and residual."""

    heads: int
    qkv_bias: bool = True
    epsilon: float = 1e-6  # of the norms
    drop_path: float = 0.0  # rate of stochastic depth

    @nn.compact
    def __call__(self, x: Array, keys: Array | None = None) -> Array:
        """Returns tokens [B,N,C] from [B,N,C].

        Args:
            x: the tokens.
            keys: [B], for stochastic depth; None = none.
        """
        width = x.shape[-1]
        y = layer_norm("norm_1", self.epsilon)(x)
        qkv = dense(3 * width, "qkv", self.qkv_bias)(y)
        qkv = qkv.reshape(*x.shape[:2], 3, self.heads, width // self.heads)
        y = attention(*qkv.transpose(2, 0, 3, 1, 4))
        y = dense(width, "out")(y.swapaxes(1, 2).reshape(x.shape))
        x = x + self._dropped(y, keys, 0)
        y = dense(4 * width, "mlp_1")(layer_norm("norm_2", self.epsilon)(x))
        y = dense(width, "mlp_2")(nn.gelu(y, approximate=False))
        return x + self._dropped(y, keys, 1)

    def _dropped(self, y: Array, keys: Array | None, part: int) -> Array:
        if keys is None:
            return y
        return drop_path(layer_keys(keys, part), y, self.drop_path)


def attention(q: Array, k: Array, v: Array) -> Array:
    """Returns softmax(q k^T / sqrt(C)) v, [B,heads,N,C], of three such arrays.

    One sample is computed at a time: [heads,N,N] logits of ViT-B/8 at 224 pixels are
    30 MB.
    """

    def of_sample(qkv):
        q, k, v = qkv
        logits = jnp.einsum("hnc,hmc->hnm", q, k, precision=HIGHEST)
        share = jax.nn.softmax(logits, axis=-1)
        return jnp.einsum("hnm,hmc->hnc", share, v, precision=HIGHEST)

    return jax.lax.map(of_sample, (q * q.shape[-1] ** -0.5, k, v))


def dense(features: int, name: str, use_bias: bool = True) -> nn.Dense:
    """Returns a linear layer in full float32."""
    return nn.Dense(features, use_bias, precision=HIGHEST, name=name)


def layer_norm(name: str, epsilon: float = 1e-6) -> nn.LayerNorm:
    """Returns a layer norm with exact statistics."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)
