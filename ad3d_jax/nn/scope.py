"""Making and applying the several networks of one system."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from ad3d_jax.base import Across, Array, Batch, State, Tree
from ad3d_jax.nn.rows import SCORING, Rows

Shape = tuple[int, ...]


class Scope(NamedTuple):
    """What the networks of one pass share, and the statistics that they gather."""

    params: Tree  # by network
    batch_stats: Tree  # likewise
    rows: Rows
    sums: dict  # likewise; `apply` fills it in training

    def apply(self, name: str, module, *inputs, times: int = 1, **kwargs):
        """Applies a network and files the statistics it gathered under its name.

        The inputs hold the rows of the batch `times` times, one after the other.
        """
        variables = {"params": self.params[name]}
        if name in self.batch_stats:
            variables["batch_stats"] = self.batch_stats[name]
        kwargs["rows"] = self.rows.times(times)
        if not self.rows.train:
            return module.apply(variables, *inputs, **kwargs)
        outputs, gathered = module.apply(variables, *inputs, mutable=["sums"], **kwargs)
        if gathered:
            self.sums[name] = gathered["sums"]
        return outputs


def training(params: Tree, state: State, batch: Batch, across: Across) -> Scope:
    """Returns the scope of a loss, which differentiates `params`."""
    rows = Rows(True, batch.weight, across)
    return Scope(params, state.extra.get("batch_stats", {}), rows, {})


def scoring(state: State) -> Scope:
    """Returns the scope of inference."""
    return Scope(state.params, state.extra.get("batch_stats", {}), SCORING, {})


def init_networks(
    modules: Mapping[str, object],
    shapes: Mapping[str, Sequence[Shape]],
    keys: Sequence[Array],
) -> tuple[dict[str, Tree], dict[str, Tree]]:
    """Returns fresh (parameters, batch statistics) of several networks by name.

    Args:
        modules: by the names of their parameters.
        shapes: of the inputs of each.
        keys: one for each, in the order of `modules`.
    """
    params, batch_stats = {}, {}
    for key, (name, module) in zip(keys, modules.items(), strict=True):
        made = module.init(key, *(jnp.zeros(shape) for shape in shapes[name]))
        params[name] = made["params"]
        if "batch_stats" in made:
            batch_stats[name] = made["batch_stats"]
    return params, batch_stats
