"""The Swin-Unet: a U-Net of shifted-window transformer blocks."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.conv import Conv
from ad3d_jax.nn.rows import SCORING, Rows
from ad3d_jax.nn.swin import PatchExpand, PatchMerging, SwinBlock, dense, layer_norm
from ad3d_jax.ops.dropout import dropout, layer_keys
from ad3d_jax.ops.rescale import divisible


class SwinUnet(nn.Module):
    """A Swin-Unet whose decoder is read at several resolutions.

    The decoder mirrors the encoder's depths, heads and rates of stochastic depth, which
    rise linearly to `drop_path` over the encoder's blocks. The skips, which are the
    inputs of the encoder's stages, pass through dropout of the rates `skip_dropout`
    (shallowest first), at test time as well. A grid not larger than the window is
    one unshifted window.

    Reference: Cao et al., arXiv 2105.05537; heads and skip dropout after Bi et al.,
    arXiv 2311.06797.
    """

    out_channels: int
    embed: int = 96
    depths: tuple[int, ...] = (2, 2, 4, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 8
    patch: int = 4
    mlp_ratio: int = 4
    drop_path: float = 0.1
    skip_dropout: tuple[float, ...] = (0.6, 0.4, 0.2)
    scales: int = 3
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Array, keys: Array | None = None, rows: Rows = SCORING
    ) -> tuple[Array, ...]:
        """Returns `scales` images at 1/1, 1/patch and 1/(2 patch) of the size, float32.

        Args:
            x: [B,H,W,C]; H and W must be divisible by patch * 2^(stages - 1), and each
                stage's grid by the window where it is larger.
            keys: [B] typed keys of dropout and stochastic depth; None switches both
                off.

        Raises:
            ValueError: if H or W is not divisible.
        """
        stages = len(self.depths)
        self._check(x.shape)
        depth_keys = layer_keys(keys, 0) if rows.train else None
        skip_keys = layer_keys(keys, 1)

        x = Conv(
            self.embed,
            (self.patch, self.patch),
            self.patch,
            padding="VALID",
            dtype=self.dtype,
            name="patch",
        )(x)
        x = layer_norm(self.dtype, "patch_norm")(x)
        skips = []
        for stage in range(stages):
            skips.append(x)
            x = self._blocks(x, depth_keys, stage, "down")
            if stage < stages - 1:
                x = PatchMerging(self.dtype, name=f"merge{stage}")(x)
        x = layer_norm(self.dtype, "middle_norm")(x)

        images = []
        for stage in reversed(range(stages - 1)):
            features = self.embed * 2**stage
            x = PatchExpand(2, features, self.dtype, name=f"expand{stage}")(x)
            if stage < 2 and stage + 1 < self.scales:
                head = dense(self.out_channels, self.dtype, f"head{stage + 1}")
                images.append(head(x).astype(jnp.float32))
            skip = skips[stage]
            if skip_keys is not None and stage < len(self.skip_dropout):
                rate = self.skip_dropout[stage]
                skip = dropout(layer_keys(skip_keys, stage), skip, rate)
            x = jnp.concatenate([x, skip], -1)
            x = dense(features, self.dtype, f"join{stage}")(x)
            x = self._blocks(x, depth_keys, stage, "up")
        x = layer_norm(self.dtype, "final_norm")(x)
        x = PatchExpand(self.patch, self.embed, self.dtype, name="expand_final")(x)
        head = dense(self.out_channels, self.dtype, "head0", use_bias=False)
        return (head(x).astype(jnp.float32), *reversed(images))

    def _blocks(self, x: Array, keys: Array | None, stage: int, way: str) -> Array:
        """Returns the tokens after one stage; every second block is shifted."""
        block = nn.remat(SwinBlock) if self.remat else SwinBlock
        before = sum(self.depths[:stage])
        rates = np.linspace(0.0, self.drop_path, sum(self.depths))
        for n in range(self.depths[stage]):
            number = before + n + (sum(self.depths) if way == "up" else 0)
            x = block(
                self.heads[stage],
                self.window,
                n % 2 == 1,
                self.mlp_ratio,
                float(rates[before + n]),
                self.dtype,
                name=f"{way}{stage}_block{n}",
            )(x, layer_keys(keys, number))
        return x

    def _check(self, shape: tuple[int, ...]):
        stages = len(self.depths)
        divisible("SwinUnet", shape, self.patch * 2 ** (stages - 1))
        for stage in range(stages):
            step = self.patch * 2**stage
            grid = (shape[1] // step, shape[2] // step)
            side = min(self.window, *grid)
            if grid[0] % side or grid[1] % side:
                raise ValueError(
                    f"SwinUnet: the {grid[0]}x{grid[1]} tokens of stage {stage + 1} "
                    f"must divide into windows of {side}x{side}"
                )
