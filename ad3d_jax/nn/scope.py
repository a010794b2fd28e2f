"""Applying the several networks of one system."""

from typing import NamedTuple

from ad3d_jax.base import ALONE, Across, Array, Tree


class Scope(NamedTuple):
    """Parameters, statistics and reductions that every module of one pass shares."""

    params: Tree
    batch_stats: Tree
    train: bool
    weight: Array | None
    across: Across

    def apply(self, sums: dict, name: str, module, *inputs, weight=None, **kwargs):
        """Applies a module and files the statistics it gathered under its name."""
        variables = {"params": self.params[name]}
        if name in self.batch_stats:
            variables["batch_stats"] = self.batch_stats[name]
        kwargs = dict(kwargs, train=self.train, weight=weight, across=self.across)
        if not self.train:
            return module.apply(variables, *inputs, **kwargs)
        outputs, gathered = module.apply(variables, *inputs, mutable=["sums"], **kwargs)
        if gathered:
            sums[name] = gathered["sums"]
        return outputs


def scoring(params: Tree, batch_stats: Tree) -> Scope:
    """Returns the scope of inference."""
    return Scope(params, batch_stats, False, None, ALONE)
