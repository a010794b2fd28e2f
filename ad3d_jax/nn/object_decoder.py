"""The object-specific decoder of DSR and 3DSR."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.conv import conv3x3, layers
from ad3d_jax.nn.grouped_conv import GroupedConv, GroupedEnlarge
from ad3d_jax.nn.residual_stack import ResidualStack
from ad3d_jax.nn.rows import SCORING, Rows
from ad3d_jax.ops.rescale import divisible, max_pool


class ObjectDecoder(nn.Module):
    """Renders an image of normal appearance from the codes of both levels.

    A narrow bottleneck at a quarter of the codes' resolution and instance normalisation
    keep it from passing on what it has not seen. Source: public code of DSR (arXiv
    2208.01521: width 256, hidden 128, residual 64) and 3DSR (arXiv 2311.01117: the
    defaults), where `width` is the number of channels that come in.
    """

    out_channels: int = 4
    width: int = 512
    hidden: int = 256
    residual: int = 128
    residual_layers: int = 2
    bottleneck: int = 64
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,4H,4W,out_channels] float32 from codes [B,H,W,C].

        Args:
            x: the enlarged lower and the higher level; H and W divisible by 4.
            rows: as every network takes them; they are independent here.

        Raises:
            ValueError: if H or W is not divisible.
        """
        divisible("ObjectDecoder", x.shape, 4)
        layer = layers("instance", self.dtype, rows)
        for level, width in enumerate((self.width, 2 * self.width)):
            x = layer(x, width, f"down{level}_1")
            x = max_pool(layer(x, 2 * width, f"down{level}_2"))

        def enlarge(features, name):
            return GroupedEnlarge(features, dtype=self.dtype, name=name)

        x = GroupedConv(
            self.bottleneck, 1, padding=0, dtype=self.dtype, name="bottleneck"
        )(x)
        x = nn.relu(enlarge(self.bottleneck, "up1")(x))
        x = nn.relu(enlarge(self.bottleneck, "up2")(x))
        x = conv3x3(self.hidden, self.dtype, "render_1")(x)
        x = ResidualStack(
            self.residual,
            self.residual_layers,
            relu_skip=True,
            dtype=self.dtype,
            name="stack",
        )(x)
        x = nn.relu(enlarge(self.hidden // 2, "render_2")(x))
        return enlarge(self.out_channels, "render_3")(x).astype(jnp.float32)
