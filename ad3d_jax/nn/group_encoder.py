"""A small PointNet that makes one token of each group of points."""

import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array
from ad3d_jax.nn.batch_norm import BatchNorm
from ad3d_jax.nn.rows import SCORING, Rows
from ad3d_jax.nn.transformer import HIGHEST, dense

WIDTHS = (128, 256, 512)  # of the layers before a token


class GroupEncoder(nn.Module):
    """Two perceptrons on each point, each with a maximum over the group behind it.

    The second one sees the group's maximum beside the point's own features.

    Reference: Yu et al., Point-BERT, arXiv 2111.14819, where a perceptron is a list of
    the layers 0 (linear), 1 (norm), 2 (ReLU), 3 (linear).
    """

    width: int = 384  # of a token

    @nn.compact
    def __call__(self, groups: Array, rows: Rows = SCORING) -> Array:
        """Returns tokens [B,G,width] float32.

        Args:
            groups: [B,G,M,3] float32, M points a group, relative to its centre.
            rows: whether the two batch norms take the batch's statistics.
        """
        first, second, third = WIDTHS
        x = dense(first, "first_conv_0")(groups)
        x = nn.relu(BatchNorm(name="first_conv_1")(x, rows))
        x = dense(second, "first_conv_3")(x)
        x = Beside(third, name="second_conv_0")(jnp.max(x, axis=2, keepdims=True), x)
        x = nn.relu(BatchNorm(name="second_conv_1")(x, rows))
        return jnp.max(dense(self.width, "second_conv_3")(x), axis=2)


class Beside(nn.Module):
    """A linear layer of two inputs, the first in front of the second.

    What the first adds is computed once where it is the same for all points.
    """

    features: int

    @nn.compact
    def __call__(self, one: Array, other: Array) -> Array:
        """Returns [B,G,M,features] from [B,G,1,C] and [B,G,M,D]."""
        ahead = one.shape[-1]
        inputs = ahead + other.shape[-1]
        drawn = nn.initializers.lecun_normal()
        kernel = self.param("kernel", drawn, (inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        shared = jnp.matmul(one, kernel[:ahead], precision=HIGHEST)
        shared = shared + bias[None, None, None]
        return shared + jnp.matmul(other, kernel[ahead:], precision=HIGHEST)
