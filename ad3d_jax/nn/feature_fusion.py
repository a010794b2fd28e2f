"""M3DM's fusion of point and image features: one MLP each, side by side.

Wang et al., arXiv 2303.00601 (UFF); architecture of nomewang/M3DM.
"""

from functools import partial

import jax
from flax import linen as nn

from ad3d_jax.base import Array

HEAD = 256  # numbers that the contrastive loss compares
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's for linear layers.
_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _bias(fan_in: int) -> nn.initializers.Initializer:
    def draw(key, shape, dtype="float32"):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def dense(features: int, fan_in: int, name: str) -> nn.Dense:
    """Returns a linear layer that begins as PyTorch's does."""
    return nn.Dense(
        features,
        name=name,
        kernel_init=_kernel,
        bias_init=_bias(fan_in),
        precision=jax.lax.Precision.HIGHEST,
    )


class Branch(nn.Module):
    """Layer norm, linear to `ratio` times the width, GELU, linear back; and a head."""

    ratio: int = 4

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns (fused features, head) [...,D] and [...,256] of x [...,D] float32."""
        width = x.shape[-1]
        hidden = self.ratio * width
        x = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm")(x)
        x = dense(hidden, width, "expand")(x)
        x = dense(width, hidden, "reduce")(nn.gelu(x, approximate=False))
        return x, dense(HEAD, width, "head")(x)


class FeatureFusion(nn.Module):
    """A branch for points and one for the image.

    15,840,896 parameters at 1152 and 768 features.
    """

    ratio: int = 4

    def setup(self):
        """Names the branches."""
        branch = partial(Branch, self.ratio)
        self.points, self.rgb = branch(), branch()

    def __call__(self, points: Array, rgb: Array) -> tuple[Array, Array, Array, Array]:
        """Returns (points, rgb, head of points, head of rgb) of features [...,D]."""
        points, of_points = self.points(points)
        rgb, of_rgb = self.rgb(rgb)
        return points, rgb, of_points, of_rgb
