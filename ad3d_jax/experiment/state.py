"""The state of a run: its keys, its system, what a fit begins with and ends with."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ad3d_jax.base import Array, Batch, State, System, Tree
from ad3d_jax.devices import kept, processes
from ad3d_jax.fit.positions import unpack_state
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.systems import build, entry_of, nearest
from ad3d_jax.workdir import names
from ad3d_jax.workdir.checkpoint import has_tree, load_tree
from ad3d_jax.workdir.json_files import to_json

KEYS = {"init": 0, "fit": 1, "score": 2, "images": 3, "synthesis": 4}
NOTHING: Mapping[str, Tree] = MappingProxyType({})


def key_of(config: ConfigDict, use: str) -> Array:
    """Returns the random key of a use named in KEYS."""
    return jax.random.fold_in(jax.random.key(config.seed), KEYS[use])


def build_system(config: ConfigDict) -> System:
    """Returns the system; raises ValueError where a field is wrong."""
    system = build(config.system, config.model.to_dict())
    known = entry_of(config.system).hyper
    for name in config.hyper:
        if name not in known:
            raise ValueError(f"hyper.{name}: no such field{nearest(name, known)}")
    check_parts(config, system)
    return system


def check_parts(config: ConfigDict, system: System) -> None:
    """Checks the files that are named for parts of the system.

    Raises:
        ValueError: one is named for what is no part, or for one that no phase makes, or
            one part is both to be read and to be written.
    """
    parts = {row.name for row in system.pretrained}
    made = {phase.pretrained for phase in system.phases}
    whole = f"{config.system} ({config.variant})"
    for name, value in config.weights.items():
        if value and name not in parts:
            raise ValueError(f"weights.{name}: {whole} has no {name}")
    for name, value in config.save_weights.items():
        if value and name not in made:
            raise ValueError(f"save_weights.{name}: no phase of {whole} makes {name}")
        if value and (file := config.weights.get(name, "")):
            raise ValueError(
                f"save_weights.{name}: no phase makes {name} where weights.{name}="
                f"{file} brings it; leave one of the two empty"
            )


def traced_from(config: ConfigDict, system: System) -> kept.Facts:
    """Returns what the traces of a system depend on besides shapes, as JSON.

    None where that is not known: of a system that is not of this library, or changed.
    """

    def ours(function) -> bool:
        return function.__module__.startswith("ad3d_jax.")

    if not (ours(system.init) and ours(system.score)):
        return None
    if not ours(entry_of(config.system).factory):
        return None
    return {"system": config.system, "model": to_json(config.model.to_dict())}


def initial_state(
    config: ConfigDict,
    system: System,
    batch: Batch,
    brought: Mapping[str, Tree] = NOTHING,
) -> State:
    """Returns the state that a fit begins with.

    Args:
        config: of the run.
        system: of the configuration.
        batch: for its shapes.
        brought: what files bring, by the names of the system's pretrained parts.
    """
    key = key_of(config, "init")
    rows = [row for row in system.pretrained if row.name in brought]

    def drawn(key: Array) -> State:
        """Returns the initial state without what files bring, which is not drawn."""
        state = system.init(key, batch)
        for row in rows:
            state = row.put(state, jax.tree.map(lambda _: None, brought[row.name]))
        return state

    state = initialise(drawn, key) if rows else system.init(key, batch)
    for row in rows:
        state = row.put(state, brought[row.name])
    hyper = {name: jnp.float32(value) for name, value in config.hyper.items()}
    return state._replace(hyper={**state.hyper, **hyper})


def fitted_state(
    config: ConfigDict,
    system: System,
    batch: Batch,
    workdir: Path,
    place: str = names.FINAL,
) -> State:
    """Returns the state that a finished fit saved; `batch` gives shapes alone.

    `place` is where it is in the workdir: that of the whole, or of a fold.

    Files of weights are not read: their content was saved.

    Raises:
        ValueError: the workdir holds none, or that of another configuration.
    """
    path = workdir / place
    processes.wait_for(path)
    if not has_tree(path):
        raise ValueError(f"{path}: no fitted state; fit first")
    key, facts = key_of(config, "init"), traced_from(config, system)
    like = kept.shapes(system.init, key, batch, facts=facts)
    hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in config.hyper}
    like = like._replace(hyper={**like.hyper, **hyper})
    return unpack_state(like, load_tree(path))
