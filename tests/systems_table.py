"""The table of systems that the contract is tested on: one row each."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import reference_systems

from ad3d_jax.base import Batch, System
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.state import build_system
from ad3d_jax.testing import make_batch


class Row(NamedTuple):
    """A system at a size that fits in seconds; see `ad3d_jax.testing.check_system`."""

    make_system: Callable[[], System]
    make_batch: Callable[..., Batch] = partial(make_batch, size=32, rails=True)
    stochastic: frozenset[str] = frozenset()
    rounding: float = 1e-6
    slow: bool = False  # held to the contract by the slow tests alone


def configured(name: str) -> Callable[[], System]:
    """Returns a maker of the system as a configuration has it, its numbers applied."""

    def make() -> System:
        config = load(name)
        system = build_system(config)

        def init(key, batch):
            state = system.init(key, batch)
            hyper = {name: jnp.float32(value) for name, value in config.hyper.items()}
            return state._replace(hyper={**state.hyper, **hyper})

        return system._replace(init=init)

    return make


def reference(
    name: str, *stochastic: str, batch=make_batch, rounding: float = 1e-6
) -> Row:
    """Returns the row of a reference system."""
    maker = getattr(reference_systems, name)
    return Row(maker, batch, frozenset(stochastic), rounding)


def tiny(name: str, *stochastic: str, **other) -> Row:
    """Returns the row of a configuration's variant `tiny`."""
    maker = configured(name if ":" in name else f"{name}:tiny")
    return Row(maker, stochastic=frozenset(stochastic), **other)


REFERENCES = {
    "restorer": reference("restorer", "train"),
    "critic": reference("critic", "train", "score"),
    "bank": reference("bank"),
    "neighbours": reference("neighbours", "gather"),
    "banks": reference("banks", "gather"),
    # The inverse of a covariance magnifies the rounding of its sums: 3e-5 found.
    "moments": reference("moments", rounding=5e-5),
    "points": reference("points", batch=reference_systems.make_cloud),
}
SYSTEMS = {
    "patchcore": tiny("patchcore", "gather"),
    "btf": tiny("btf", "gather"),
    "btf_hog": tiny("btf:tiny+hog"),
    "m3dm": tiny("m3dm"),
    "m3dm_nr": tiny("m3dm_nr", slow=True),
    # As of `moments`; 2e-6 found.
    "padim": tiny("padim", rounding=5e-6),
    "simplenet": tiny("simplenet", "train"),
    "draem": tiny("draem", "train"),
    "easynet": tiny("easynet", "train", "gather"),
    # A second way to train one of the ten: two phases.
    "easynet_in_turn": tiny(
        "easynet:tiny+fusion2+1layer", "train", "gather", slow=True
    ),
    "das3d": tiny("das3d", "train"),
    "dsr": tiny("dsr", "train"),
    # One rounding of its weights moves the fitted network's map by up to 4e-6.
    "dsr3d": tiny("dsr3d", "train", rounding=1e-5),
    # One rounding of its input moves the fitted network's map by 1e-5 to 4e-5.
    "dbrn": tiny("dbrn", "train", "score", rounding=1e-5),
}
TABLE = REFERENCES | SYSTEMS
