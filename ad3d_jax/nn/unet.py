"""The U-Net that DRAEM and its successors segment with."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.conv import Layer, conv3x3, layers
from ad3d_jax.nn.rows import SCORING, Rows
from ad3d_jax.ops.rescale import divisible, double, max_pool


class UNet(nn.Module):
    """DRAEM's discriminative network, and that of the DSR line.

    Blocks of two convolutions of `widths` features, halved by max-pools; on the way up
    each level is doubled bilinearly, convolved, joined with its skip and convolved
    twice, at the width `up_widths` has for it, deepest level first. None stands for
    DRAEM's: the width of the level above, the uppermost two at `widths[0]`. With
    `first_convs` = 1 the first block has one convolution, which completes a block whose
    first one is the caller's patch embedding.

    Reference: Zavrtanik et al., arXiv 2108.07610, with its initialisation: kernels
    N(0, 0.02), scales N(1, 0.02), biases 0. 3DSR's (arXiv 2311.01117) has the widths
    (32, 64, 128, 128) and (128, 64, 32) and instance normalisation.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    up_widths: tuple[int, ...] | None = None
    out_channels: int = 2
    first_convs: int = 2
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> Array:
        """Returns logits [B,H,W,out_channels] float32.

        Args:
            x: [B,H,W,C]; H and W must be divisible by 2^(len(widths) - 1).

        Raises:
            ValueError: if H or W is not divisible, or `up_widths` does not have one
                width less than `widths`.
        """
        divisible("UNet", x.shape, 2 ** (len(self.widths) - 1))
        layer = layers(self.norm, self.dtype, rows)
        skips = descend(x, self.widths, layer, first_convs=self.first_convs)
        x = ascend(skips, self.up_widths or draem_up_widths(self.widths), layer)
        head = conv3x3(self.out_channels, self.dtype, "head")
        return head(x).astype(jnp.float32)


def draem_widths(width: int, levels: int) -> tuple[int, ...]:
    """Returns the widths of the way down, doubled three times at most as in DRAEM."""
    return tuple(width * min(2**level, 8) for level in range(levels + 1))


def draem_up_widths(widths: tuple[int, ...]) -> tuple[int, ...]:
    """Returns DRAEM's widths on the way up, deepest level first."""
    return (*widths[-3::-1], widths[0])


def descend(
    x: Array,
    widths: Sequence[int],
    layer: Layer,
    name: str = "down",
    first_convs: int = 2,
) -> list[Array]:
    """Returns the output of each block on the way down: [B,H/2^i,W/2^i,widths[i]].

    To be called inside a compact module. Two max-pooled convolutions to a level, of
    which the first may be one alone; their names are `name`, level, "_", number.
    """
    blocks = []
    for level, features in enumerate(widths):
        x = max_pool(x) if level else x
        for number in range(2 if level else first_convs):
            x = layer(x, features, f"{name}{level}_{number + 1}")
        blocks.append(x)
    return blocks


def ascend(skips: Sequence[Array], widths: Sequence[int], layer: Layer) -> Array:
    """Returns [B,H,W,widths[-1]] from the skips, uppermost level first.

    To be called inside a compact module. The last of `skips` is the deepest block;
    `widths` has one for each of the others, deepest level first.

    Raises:
        ValueError: if the lengths do not agree.
    """
    *skips, x = skips
    if len(widths) != len(skips):
        raise ValueError(
            f"{len(skips)} levels above the deepest need as many widths on the way up, "
            f"found {tuple(widths)}"
        )
    for level, features in zip(reversed(range(len(skips))), widths, strict=True):
        x = layer(double(x), features, f"enlarge{level}_1")
        x = jnp.concatenate([x, skips[level]], -1)
        for number in (1, 2):
            x = layer(x, features, f"up{level}_{number}")
    return x
