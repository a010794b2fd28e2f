"""Batch normalisation over the real rows of all devices."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ad3d_jax.base import Array, Tree
from ad3d_jax.nn.rows import SCORING, Rows


class BatchNorm(nn.Module):
    """Normalises each channel by the statistics of a batch's real rows.

    In training the mean and the variance are those of all rows of weight > 0 on all
    devices, so neither padding nor the number of devices changes a result. The module
    then writes to the collection "sums", where that is mutable, what `fold` needs:
    `count` [], `total` [C] and `centred_square` [C] of this device's rows, which add up
    over devices. At inference it uses "batch_stats" {mean, var}, each [C].

    Reference: Ioffe and Szegedy, arXiv 1502.03167; epsilon as in PyTorch.
    """

    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, rows: Rows = SCORING) -> Array:
        """Returns [B,H,W,C] in `dtype`.

        Args:
            x: [B,H,W,C], any float type; statistics are taken in float32.
            rows: whether to use the batch's statistics or the running ones, and of
                which rows.

        Raises:
            ValueError: if it is called twice in one training application, where the
                second sums would replace the first.
        """
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,)).value
        var = self.variable("batch_stats", "var", jnp.ones, (channels,)).value
        x = x.astype(jnp.float32)
        if rows.train:
            mean, var, sums = _statistics(x, rows)
            self._store(sums)
        y = (x - _row(mean)) * _row(scale * jax.lax.rsqrt(var + self.epsilon))
        return (y + _row(bias)).astype(self.dtype)

    def _store(self, sums: Tree):
        if self.is_initializing() or not self.is_mutable_collection("sums"):
            return
        if self.has_variable("sums", "count"):
            raise ValueError(
                f"BatchNorm {'/'.join(self.path)} was called twice in one training "
                "application; concatenate the inputs along the rows instead"
            )
        for name, value in sums.items():
            self.put_variable("sums", name, value)


def _row(x: Array) -> Array:
    """Returns a [C] vector as [1,1,1,C]."""
    return x[None, None, None, :]


def _statistics(x: Array, rows: Rows):
    """Returns mean [C], biased variance [C] over all devices, and this one's sums."""
    count, height, width, _ = x.shape
    across = rows.across
    weight = jnp.ones(count) if rows.weight is None else rows.weight.astype(jnp.float32)

    def weighted(values):  # by rows first, so that the long sum is a short one of sums
        return jnp.einsum("b,bc->c", weight, values.sum((1, 2)), precision="highest")

    count = weight.sum() * (height * width)
    total = weighted(x)
    everywhere = across.sum(count)
    safe = jnp.maximum(everywhere, 1.0)
    mean = across.sum(total) / safe
    # The centred sum does not change with the mean to first order, hence no gradient.
    centred_square = weighted((x - _row(jax.lax.stop_gradient(mean))) ** 2)
    # 1 without any row: 0 would make each layer multiply by 316, up to infinity.
    var = jnp.where(everywhere > 0, across.sum(centred_square) / safe, 1.0)
    sums = {"count": count, "total": total, "centred_square": centred_square}
    return mean, var, jax.lax.stop_gradient(sums)


def fold(batch_stats: Tree, sums: Tree, momentum: float = 0.1) -> Tree:
    """Returns the running statistics after one more batch.

    Args:
        batch_stats: nested dict with {mean [C], var [C]} for each `BatchNorm`.
        sums: the same nesting with {count [], total [C], centred_square [C]}, summed
            over devices; a layer that saw no row, or has no sums, stays as it is.
        momentum: weight of the new batch, in [0,1].

    The running variance is unbiased, as in PyTorch's BatchNorm2d.
    """
    if "mean" not in batch_stats:
        return {
            name: fold(value, sums[name], momentum) if name in sums else value
            for name, value in batch_stats.items()
        }
    count = sums["count"]
    seen = count > 0
    mean = sums["total"] / jnp.maximum(count, 1.0)
    var = sums["centred_square"] / jnp.maximum(count - 1.0, 1.0)

    def moved(old, new):
        return jnp.where(seen, (1.0 - momentum) * old + momentum * new, old)

    return {
        "mean": moved(batch_stats["mean"], mean),
        "var": moved(batch_stats["var"], var),
    }


def fold_modules(extra: Tree, sums: Tree) -> Tree:
    """Returns `extra` with the running statistics of several networks moved.

    Args:
        extra: of a State; {"batch_stats": {network: its statistics}, ...}.
        sums: {network: its sums}; networks without any stay as they are.
    """
    return {**extra, "batch_stats": fold(extra["batch_stats"], sums)}
