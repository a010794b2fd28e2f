"""The table of all systems for the protocol suite: one row each."""

from collections.abc import Callable
from typing import NamedTuple

from reference_systems import bank, critic, make_batch, restorer

from ad3d_jax.base import Batch, System


class Row(NamedTuple):
    """A system at a size that trains in seconds."""

    name: str
    make: Callable[[], System]  # steps enough to find the planted defect
    make_batch: Callable[..., Batch]  # (count, seed=, defect=) -> host batch
    stochastic: frozenset[str] = frozenset()  # of: train, gather, score


def board(size: int) -> Callable[..., Batch]:
    """Returns a maker of samples of the textured board."""

    def make(count, seed=0, defect=False):
        return make_batch(count, size=size, seed=seed, defect=defect)

    return make


TABLE = (
    Row("restorer", restorer, board(16), frozenset({"train"})),
    Row("critic", critic, board(16), frozenset({"train", "score"})),
    Row("bank", bank, board(16)),
)
