"""CFM's network: from the features of one modality to those of another."""

from functools import partial

import jax
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.feature_discriminator import uniform_bias

# PyTorch's kernels, U(-1/sqrt(inputs), 1/sqrt(inputs)).
dense = partial(
    nn.Dense,
    kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    precision=jax.lax.Precision.HIGHEST,
)


class FeatureMapping(nn.Module):
    """Linear layers on every pixel; GELU follows all of them but the last one.

    The layers before the last one have (inputs + features) // 2 outputs; one of them
    sees the input, and `depth` more follow.

    Reference: Costanzino et al., arXiv 2312.04521, and the authors' release.
    """

    features: int  # of the output
    depth: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [...,features] of x [...,C] float32."""
        width = (x.shape[-1] + self.features) // 2
        for number in range(1 + self.depth):
            bias_init = uniform_bias(x.shape[-1])
            x = dense(width, bias_init=bias_init, name=f"hidden{number}")(x)
            x = nn.gelu(x, approximate=False)
        return dense(self.features, bias_init=uniform_bias(width), name="output")(x)
