"""The transformer of Point-MAE and Point-BERT on the tokens of point groups."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.transformer import Block, dense, layer_norm
from ad3d_jax.ops.dropout import layer_keys

DEPTH = 12
LAYERS = tuple(f"block{number + 1}" for number in range(DEPTH))  # what can be tapped
DROP_PATH = 0.1  # of the last block; rates rise linearly from 0


class PointTransformer(nn.Module):
    """Twelve blocks that get the places of the groups anew before each of them.

    `class_token` is Point-BERT's form: tokens are brought to the transformer's width
    first, and a class token goes in front of them, which is left out of the result.

    References: Pang et al., Point-MAE, arXiv 2203.06604; Yu et al., Point-BERT, arXiv
    2111.14819; several taps through the one last norm as in M3DM, arXiv 2303.00601.
    """

    class_token: bool = False
    width: int = 384
    heads: int = 6

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        centres: Array,
        layers: tuple[str, ...],
        keys: Array | None = None,
    ) -> Array:
        """Returns the taps side by side, [B,G,width * taps] float32, all normed.

        Nothing behind the deepest of the layers is computed.

        Args:
            tokens: [B,G,C] float32; C is `width` without a class token.
            centres: [B,G,3] float32.
            layers: names in LAYERS, in the order of the result.
            keys: [B], for stochastic depth as in training; None = none.
        """
        place = nn.gelu(dense(128, "pos_embed_0")(centres), approximate=False)
        place = dense(self.width, "pos_embed_2")(place)
        x = tokens
        if self.class_token:
            shape = (1, 1, self.width)
            token = self.param("cls_token", nn.initializers.zeros, shape)
            position = self.param("cls_pos", nn.initializers.normal(1.0), shape)
            x = dense(self.width, "reduce_dim")(x)
            x, place = (
                jnp.concatenate([jnp.repeat(first, len(x), axis=0), rest], axis=1)
                for first, rest in ((token, x), (position, place))
            )
        taps = {}
        deepest = max(LAYERS.index(layer) for layer in layers)
        for number, layer in enumerate(LAYERS[: deepest + 1]):
            block = Block(
                heads=self.heads,
                qkv_bias=False,
                epsilon=1e-5,
                drop_path=DROP_PATH * number / (DEPTH - 1),
                name=layer,
            )
            x = block(x + place, layer_keys(keys, number))
            taps[layer] = x
        norm = layer_norm("norm", 1e-5)
        normed = [norm(taps[layer])[:, int(self.class_token) :] for layer in layers]
        return jnp.concatenate(normed, axis=-1)
