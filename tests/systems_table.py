"""The table of systems that the contract is tested on: one row each."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import reference_systems

from ad3d_jax.base import Batch, System
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.state import build_system
from ad3d_jax.testing import make_batch
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import complete_parameters


class Row(NamedTuple):
    """A system at a size that fits in seconds; see `ad3d_jax.testing.check_system`."""

    make_system: Callable[[], System]
    make_batch: Callable[..., Batch] = partial(make_batch, size=32, rails=True)
    stochastic: frozenset[str] = frozenset()
    rounding: float = 1e-6
    slow: bool = False  # held to the contract by the slow tests alone
    one_device: bool = False  # another way of a row that is held to all clauses


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


def with_extras(name: str, *extras: str, recipe: str = "raw") -> Callable[..., Batch]:
    """Returns a maker of boards with extras, as the variant `tiny` of a system has."""

    def make(count: int, **other) -> Batch:
        batch = make_batch(count, size=32, rails=True, **other)
        given = load(f"{name}:tiny").data.recipe_parameters.to_dict()
        params = complete_parameters(
            recipe, {**given, "image_size": 32, "extras": extras}
        )
        apply = RECIPES[recipe].apply
        made = [apply(params, Sample(xyz=xyz)).record for xyz in batch.xyz]
        found = {key: np.stack([record[key] for record in made]) for key in extras}
        return batch._replace(extras={**batch.extras, **found})

    return make


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
    # FPFH, which takes long to compile, is held to the contract with `btf`.
    "cpmf": tiny(
        "cpmf:tiny+views",
        "gather",
        make_batch=with_extras("cpmf", "views", "view_positions"),
    ),
    "m3dm": tiny("m3dm"),
    # Cached patches of two batch sizes differ by 1e-6, what is fused of them by 1.1e-6.
    "m3dm_nr": tiny("m3dm_nr", slow=True, rounding=2e-6),
    # As of `moments`; 2e-6 found.
    "padim": tiny("padim", rounding=5e-6),
    "simplenet": tiny("simplenet", "train"),
    "cfm": tiny("cfm"),
    "shape_guided": tiny(
        "shape_guided",
        "train",
        "gather",
        make_batch=with_extras("shape_guided", "patches"),
    ),
    "draem": tiny("draem", "train"),
    "easynet": tiny("easynet", "train", "gather"),
    # A second way to train one of the ten: two phases.
    "easynet_in_turn": tiny(
        "easynet:tiny+fusion2+1layer", "train", "gather", slow=True, one_device=True
    ),
    "das3d": tiny("das3d", "train"),
    "dsr": tiny("dsr", "train"),
    # One rounding of its weights moves the fitted network's map by up to 4e-6.
    "dsr3d": tiny("dsr3d", "train", rounding=1e-5),
    # One rounding of its input moves the fitted network's map by 1e-5 to 4e-5.
    "dbrn": tiny("dbrn", "train", "score", rounding=1e-5),
}
TABLE = REFERENCES | SYSTEMS
