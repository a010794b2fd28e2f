"""A U-Net that sees two inputs of one scene, each by its own way down: DAS3D."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.conv import Conv, conv3x3, layers
from ad3d_jax.nn.rows import SCORING, Rows
from ad3d_jax.nn.unet import ascend, descend, draem_up_widths
from ad3d_jax.ops.rescale import divisible


class PairedUNet(nn.Module):
    """Two encoders, joined at every level, and one decoder.

    Each level's two outputs are concatenated and brought back to one's width by a
    linear 1x1 convolution; the results are the skips of a decoder as in `UNet`.

    DAS3D (arXiv 2410.09821) says that the discriminator fuses the embeddings of both
    modalities; the structure is ours.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    out_channels: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, first: Array, second: Array, rows: Rows = SCORING) -> Array:
        """Returns logits [B,H,W,out_channels] float32.

        Args:
            first: [B,H,W,C]; H and W must be divisible by 2^(len(widths) - 1).
            second: [B,H,W,D].

        Raises:
            ValueError: if H or W is not divisible.
        """
        divisible("PairedUNet", first.shape, 2 ** (len(self.widths) - 1))
        layer = layers("batch", self.dtype, rows)
        ways = (
            descend(first, self.widths, layer, "first"),
            descend(second, self.widths, layer, "second"),
        )
        # No norm follows a join, hence linen's kernels, which keep the scale.
        skips = [
            Conv(
                features,
                (1, 1),
                dtype=self.dtype,
                name=f"join{level}",
            )(jnp.concatenate(pair, -1))
            for level, (features, *pair) in enumerate(
                zip(self.widths, *ways, strict=True)
            )
        ]
        x = ascend(skips, draem_up_widths(self.widths), layer)
        head = conv3x3(self.out_channels, self.dtype, "head")
        return head(x).astype(jnp.float32)
