"""The auto-encoder of two discrete levels of DSR and of 3DSR (there called DADA)."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.conv import kernel_init
from ad3d_jax.nn.grouped_conv import GroupedConv, GroupedEnlarge
from ad3d_jax.nn.residual_stack import ResidualStack
from ad3d_jax.ops.rescale import divisible

KERNELS = {"normal": kernel_init, "he": nn.initializers.he_normal()}


class DiscreteAutoEncoder(nn.Module):
    """Encoder and decoder around two codebooks, which are not a part of it.

    An image passes `encode_hi`, `encode_lo`, (quantiser lo), `enlarge`, `merge`,
    (quantiser hi) and `decode`. `channels` has the number of channels of each group:
    (1, 3) is DADA, depth and RGB apart except in the choice of a code; (1,) its
    depth-only version; (3,) DSR; (4,) the plain VQ-VAE of 3DSR's ablation. Only with
    several groups there are 1x1 convolutions at the ends. `kernels`: how they start,
    "normal", N(0, 0.02) as in the public code, or "he", which a narrow network needs to
    pass anything on. Biases start at 0 (public code: PyTorch's default). `dtype` is the
    decoder's: what leads to codes is float32, since a rounding may choose another one.

    References: arXiv 2208.01521 and 2311.01117.
    """

    channels: tuple[int, ...] = (1, 3)
    hidden: int = 256
    residual: int = 128
    residual_layers: int = 2
    dimensions: int = 256  # of a code
    relu_skip: bool = False  # see `ResidualStack`; True in DSR
    kernels: str = "normal"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """Names the layers in the order of a pass."""
        groups, hidden = len(self.channels), self.hidden
        init = KERNELS[self.kernels]
        shared = dict(groups=groups, kernel_init=init)
        decoding = {**shared, "dtype": self.dtype}

        def conv(features, kernel=3, stride=1, padding=1, form=shared):
            return GroupedConv(features, kernel, stride, padding, **form)

        def stack(form=shared):
            return ResidualStack(
                self.residual, self.residual_layers, relu_skip=self.relu_skip, **form
            )

        def point(features, form=shared):
            return GroupedConv(features, 1, padding=0, **{**form, "groups": 1})

        if groups > 1:
            self.stems = [point(hidden // 2 // groups) for _ in self.channels]
            self.heads = [point(channels, decoding) for channels in self.channels]
        self.hi_1 = conv(hidden // 2, 4, 2)
        self.hi_2 = conv(hidden, 4, 2)
        self.hi_3 = conv(hidden)
        self.hi_stack = stack()
        self.lo_1 = conv(hidden, 4, 2)
        self.lo_2 = conv(hidden)
        self.lo_stack = stack()
        self.before_lo = conv(self.dimensions, 1, padding=0)
        self.enlarge_lo = GroupedEnlarge(self.dimensions, **shared)
        self.before_hi = conv(self.dimensions, 1, padding=0)
        self.decode_1 = conv(hidden, form=decoding)
        self.decode_stack = stack(decoding)
        self.decode_2 = GroupedEnlarge(hidden // 2, **decoding)
        out = hidden // 4 if groups > 1 else self.channels[0]
        self.decode_3 = GroupedEnlarge(out, **decoding)

    def __call__(self, x: Array) -> Array:
        """Returns [B,H,W,C] float32 without quantisation; to make parameters with."""
        encoded_hi = self.encode_hi(x)
        enlarged = self.enlarge(self.encode_lo(encoded_hi))
        return self.decode(enlarged, self.merge(encoded_hi, enlarged))

    def encode_hi(self, x: Array) -> Array:
        """Returns [B,H/4,W/4,hidden] from [B,H,W,C], the groups one after the other.

        Raises:
            ValueError: if H or W is not divisible by 8.
        """
        divisible("DiscreteAutoEncoder", x.shape, 8)
        if len(self.channels) > 1:
            x = nn.relu(_ends(self.stems, x, self.channels))
        x = nn.relu(self.hi_1(x))
        x = nn.relu(self.hi_2(x))
        return self.hi_stack(self.hi_3(x))

    def encode_lo(self, encoded_hi: Array) -> Array:
        """Returns z_lo [B,h/2,w/2,dimensions] float32 from [B,h,w,hidden]."""
        x = nn.relu(self.lo_1(encoded_hi))
        x = nn.relu(self.lo_2(x))
        return self.before_lo(self.lo_stack(x)).astype(jnp.float32)

    def enlarge(self, q_lo: Array) -> Array:
        """Returns [B,2h,2w,dimensions] from codes of the lower level [B,h,w,dim.]."""
        return self.enlarge_lo(q_lo).astype(jnp.float32)

    def merge(self, encoded_hi: Array, enlarged: Array) -> Array:
        """Returns z_hi [B,h,w,dimensions] float32 from both levels."""
        joined = _join(encoded_hi, enlarged, len(self.channels))
        return self.before_hi(joined).astype(jnp.float32)

    def decode(self, enlarged: Array, q_hi: Array) -> Array:
        """Returns the image [B,4h,4w,C] float32 from both levels [B,h,w,dim.]."""
        groups = len(self.channels)
        x = self.decode_stack(self.decode_1(_join(enlarged, q_hi, groups)))
        x = self.decode_3(nn.relu(self.decode_2(x)))
        if groups > 1:
            x = _ends(self.heads, x, (x.shape[-1] // groups,) * groups)
        return x.astype(jnp.float32)


def _ends(convolutions, x: Array, channels: tuple[int, ...]) -> Array:
    """Returns the groups of channels, each under its own convolution, joined."""
    cuts = [sum(channels[: number + 1]) for number in range(len(channels) - 1)]
    parts = jnp.split(x, cuts, axis=-1)
    pairs = zip(convolutions, parts, strict=True)
    return jnp.concatenate([convolve(part) for convolve, part in pairs], axis=-1)


def _join(a: Array, b: Array, groups: int) -> Array:
    """Returns the channels of both, those of each group side by side."""
    a, b = (x.reshape(*x.shape[:3], groups, -1) for x in (a, b))
    return jnp.concatenate([a, b], axis=-1).reshape(*a.shape[:3], -1)
