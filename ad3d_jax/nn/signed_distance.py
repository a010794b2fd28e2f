"""The networks of Shape-Guided: codes of patches, distances from their surfaces.

Y.-M. Chu et al., "Shape-Guided Dual-Memory Learning for 3D Anomaly Detection", ICML
2023, which has them from B. Ma et al., "Surface Reconstruction from Point Clouds by
Learning Predictive Context Priors", CVPR 2022. Layers are called as in the public
weights of Shape-Guided.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.batch_norm import BatchNorm
from ad3d_jax.nn.feature_discriminator import uniform_bias
from ad3d_jax.nn.rows import SCORING, Rows

# PyTorch's default of linear layers, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
PRECISE = jax.lax.Precision.HIGHEST


def linear(features: int, inputs: int, name: str) -> nn.Dense:
    """Returns a linear layer that starts as PyTorch's does."""
    return nn.Dense(
        features,
        precision=PRECISE,
        kernel_init=uniform,
        bias_init=uniform_bias(inputs),
        name=name,
    )


class PatchEncoder(nn.Module):
    """A PointNet: one code of a patch's points, whatever their order.

    Three layers a point, the maximum over the points, two more layers; batch norm and
    ReLU follow each, the last one too, so that no entry of a code is negative.
    """

    widths: tuple[int, int, int] = (64, 128, 1024)  # of the layers of a point
    hidden: int = 512
    code: int = 128

    @nn.compact
    def __call__(self, points: Array, rows: Rows = SCORING) -> Array:
        """Returns codes [B,P,code] of P patches [B,P,N,3] a row, float32."""
        x = points
        for number, width in enumerate(self.widths, 1):
            x = linear(width, x.shape[-1], f"conv{number}")(x)
            x = nn.relu(BatchNorm(name=f"bn{number}")(x, rows))
        # The gradient of a reduction compares with its result, which a compiler may
        # compute anew with another rounding; that of a choice does not.
        farthest = jnp.argmax(x, axis=2, keepdims=True)
        x = jnp.take_along_axis(x, farthest, axis=2)
        for number, width in enumerate((self.hidden, self.code), 1):
            x = linear(width, x.shape[-1], f"fc{number}")(x)
            x = nn.relu(BatchNorm(name=f"bn{len(self.widths) + number}")(x, rows))
        return x[:, :, 0]


class DistanceDecoder(nn.Module):
    """Signed distances of points from the surface that a code describes.

    Code and point pass a layer each and are joined; `depth` weight-normalised layers
    follow. It starts close to the signed distance from a sphere of radius 1/2.
    """

    width: int = 512
    depth: int = 7

    @nn.compact
    def __call__(self, codes: Array, points: Array) -> Array:
        """Returns distances [...,N] from codes [...,C] and points [...,N,3], float32.

        The points have the scale and the centre that the encoder saw.
        """
        width = self.width
        sphere = nn.initializers.normal(math.sqrt(2 / width))
        of_code = nn.relu(linear(width, codes.shape[-1], "fc1")(codes))
        x = nn.relu(linear(width, 3, "fc2")(points))
        # What the code adds is the same for all points of a patch.
        joined = self.param("fc3_kernel", sphere, (2 * width, width))
        bias = self.param("fc3_bias", nn.initializers.zeros, (width,))
        added = jnp.matmul(of_code, joined[width:], precision=PRECISE)
        added = (added + jnp.broadcast_to(bias, added.shape))[..., None, :]
        x = nn.relu(jnp.matmul(x, joined[:width], precision=PRECISE) + added)
        for number in range(self.depth):
            x = nn.relu(NormedLinear(width, sphere, name=f"fc4{number}")(x))
        last = nn.Dense(
            1,
            precision=PRECISE,
            kernel_init=near(2 * math.sqrt(math.pi) / math.sqrt(width)),
            bias_init=nn.initializers.constant(-0.5),
            name="fc5",
        )
        return last(x)[..., 0]


class NormedLinear(nn.Module):
    """A linear layer whose weights have a direction and a length for each output.

    Reference: Salimans and Kingma, weight normalisation, arXiv 1602.07868.
    """

    features: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [...,features] of x [...,C]."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        scale = self.param("scale", lambda _: jnp.linalg.norm(kernel, axis=0))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        factor = scale / jnp.linalg.norm(kernel, axis=0)
        x = jnp.matmul(x, kernel * factor[None], precision=PRECISE)
        return x + jnp.broadcast_to(bias, x.shape)


def near(mean: float, deviation: float = 1e-6) -> nn.initializers.Initializer:
    """Returns the initialiser that draws N(mean, deviation^2)."""

    def draw(key, shape, dtype=jnp.float32):
        return mean + deviation * jax.random.normal(key, shape, dtype)

    return draw
