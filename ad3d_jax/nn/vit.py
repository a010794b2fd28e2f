"""Plain vision transformers: patches as tokens, pre-norm blocks, learned positions."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.transformer import HIGHEST, Block, layer_norm
from ad3d_jax.ops.rescale import divisible
from ad3d_jax.ops.resize import resize_bicubic, resize_bicubic_offset

RESAMPLINGS = {"antialias": resize_bicubic, "offset": resize_bicubic_offset}


class VisionTransformer(nn.Module):
    """A vision transformer without its classifier, up to the deepest layer asked for.

    Two things of public weights are folded in, as batch norms are elsewhere: the class
    token's position is added to the class token, and the scales of residual branches
    (LayerScale) are part of the linear layers before them. Registers have no position.

    The blocks are not scanned: on a CPU twelve blocks compile as fast as a loop over
    stacked weights, which would copy the weights of each block.

    References: Dosovitskiy et al., arXiv 2010.11929; Caron et al. (DINO), 2104.14294;
    Oquab et al. (DINOv2), 2304.07193; Darcet et al. (registers), 2309.16588; as timm
    builds them.
    """

    patch: int  # side of a patch, pixels
    width: int
    heads: int
    grid: int  # side of the table of positions, patches
    depth: int = 12
    registers: int = 0
    # Of the table of positions, where the input has another size: "antialias" is
    # timm's, "offset" that of the release of DINO and DINOv2.
    resampling: str = "antialias"

    @property
    def layers(self) -> tuple[str, ...]:
        """What can be tapped, shallow to deep: block1, norm1, block2, …

        blockN is what block N returns, normN that through the final layer norm, so that
        the last one is what the network returns, and normN what it returns without the
        blocks behind block N.
        """
        numbers = range(1, self.depth + 1)
        return tuple(f"{kind}{n}" for n in numbers for kind in ("block", "norm"))

    @property
    def prefix(self) -> int:
        """How many tokens stand before those of the patches."""
        return 1 + self.registers

    def reach(self, layers: tuple[str, ...]) -> int:
        """Returns the number of the deepest block that some layers need."""
        return max(self.layers.index(layer) for layer in layers) // 2 + 1

    @nn.compact
    def __call__(self, x: Array, layers: tuple[str, ...]) -> tuple[Array, ...]:
        """Returns the tokens [B,prefix+h*w,width] of layers, float32, in their order.

        The class token is first, then the registers, then the patches line by line.

        Args:
            x: [B,H,W,3] float32, normalised; H = h * patch, W = w * patch.
            layers: names in `layers`.

        Raises:
            ValueError: a patch does not divide the sides.
        """
        patches = f"vision transformer with patches of {self.patch}"
        divisible(patches, x.shape, self.patch)
        grid = nn.Conv(
            self.width,
            (self.patch, self.patch),
            self.patch,
            padding="VALID",
            precision=HIGHEST,
            name="patches",
        )(x)
        small = nn.initializers.truncated_normal(0.02)
        table = self.param("positions", small, (1, self.grid, self.grid, self.width))
        grid = grid + RESAMPLINGS[self.resampling](table, grid.shape[1:3])
        prefix = self.param("prefix", small, (1, self.prefix, self.width))
        prefix = jnp.broadcast_to(prefix, (len(x), *prefix.shape[1:]))
        x = jnp.concatenate([prefix, grid.reshape(len(x), -1, self.width)], axis=1)
        norm, deepest, taps = layer_norm("norm"), self.reach(layers), {}
        for number in range(1, deepest + 1):
            x = Block(self.heads, name=f"block{number}")(x)
            taps[f"block{number}"] = x
            if f"norm{number}" in layers or number == deepest:
                taps[f"norm{number}"] = norm(x)
        return tuple(taps[layer] for layer in layers)


VITS = {
    "vit_small_patch8_224": VisionTransformer(8, 384, 6, grid=28),
    "vit_base_patch8_224": VisionTransformer(8, 768, 12, grid=28),
    "vit_small_patch14_reg4_dinov2": VisionTransformer(
        14, 384, 6, grid=37, registers=4
    ),
    "vit_base_patch14_reg4_dinov2": VisionTransformer(
        14, 768, 12, grid=37, registers=4
    ),
}
