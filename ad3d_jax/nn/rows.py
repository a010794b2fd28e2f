"""What a network knows of the rows of its batch."""

from typing import NamedTuple

import jax.numpy as jnp

from ad3d_jax.base import ALONE, Across, Array


class Rows(NamedTuple):
    """Whether rows are trained on, which of them count, and how devices add up."""

    train: bool  # statistics are those of the batch, stochastic depth is on
    weight: Array | None = None  # [B], 0 for rows that do not count; None counts all
    across: Across = ALONE

    def times(self, number: int) -> "Rows":
        """Returns the rows of `number` such batches, one after the other."""
        if self.weight is None or number == 1:
            return self
        return self._replace(weight=jnp.tile(self.weight, number))


SCORING = Rows(train=False)
