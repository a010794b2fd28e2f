"""The auto-encoder without skip connections of DRAEM and its successors."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.conv import conv3x3, layers
from ad3d_jax.nn.rows import SCORING, Rows
from ad3d_jax.nn.unet import descend
from ad3d_jax.ops.rescale import divisible, double

Stages = tuple[tuple[int, int, int], ...]


class Features(NamedTuple):
    """Outputs of an auto-encoder's blocks, in the order they are computed.

    encoder: [B,H/2^i,W/2^i,C] of block i = 0, 1, ...
    decoder: [B,H/2^i,W/2^i,C] of the stages, i = (number of stages) - 1, ..., 0.
    """

    encoder: tuple[Array, ...]
    decoder: tuple[Array, ...]


class AutoEncoder(nn.Module):
    """Encodes by blocks of two convolutions with max-pools between, and decodes.

    `widths`: of the encoder's blocks. `stages`: for each doubling of the decoder the
    widths of the convolution after it and of two more. A last convolution is linear.

    Reference: Zavrtanik et al., arXiv 2108.07610 (the reconstructive network, by
    default); the subspace restriction networks of DSR (arXiv 2208.01521) and 3DSR
    (arXiv 2311.01117) have the widths (128, 256, 512), the stages ((256, 256, 256),
    (128, 128, 128)) and instance normalisation.
    """

    widths: tuple[int, ...] = (128, 256, 512, 1024, 1024)
    stages: Stages = (
        (1024, 1024, 512),
        (512, 512, 256),
        (256, 256, 128),
        (128, 128, 128),
    )
    out_channels: int = 3
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> tuple[Array, Features]:
        """Returns (output [B,H,W,out_channels] float32, the blocks' features).

        Args:
            x: [B,H,W,C]; H and W must be divisible by 2^(len(widths) - 1).

        Raises:
            ValueError: if H or W is not divisible, or `stages` does not have one entry
                less than `widths`.
        """
        if len(self.stages) != len(self.widths) - 1:
            raise ValueError(
                f"{len(self.widths)} blocks need one stage less, found {self.stages}"
            )
        divisible("AutoEncoder", x.shape, 2 ** len(self.stages))
        layer = layers(self.norm, self.dtype, rows)
        encoder = descend(x, self.widths, layer)
        x, decoder = encoder[-1], []
        for number, (enlarged, first, second) in enumerate(self.stages):
            level = len(self.stages) - 1 - number
            x = layer(double(x), enlarged, f"enlarge{level}_1")
            x = layer(x, first, f"up{level}_1")
            x = layer(x, second, f"up{level}_2")
            decoder.append(x)
        head = conv3x3(self.out_channels, self.dtype, "head")
        return head(x).astype(jnp.float32), Features(tuple(encoder), tuple(decoder))


def scaled(width: int, levels: int = 4) -> tuple[tuple[int, ...], Stages]:
    """Returns (widths, stages) of DRAEM's auto-encoder at another size.

    Args:
        width: of the first block, 128 in DRAEM; each level doubles it, the last one
            does not.
        levels: number of times the image is halved.
    """
    widths = tuple(width * 2 ** min(i, levels - 1) for i in range(levels + 1))
    stages = tuple(
        (widths[i], widths[i], widths[max(i - 1, 0)]) for i in reversed(range(levels))
    )
    return widths, stages
