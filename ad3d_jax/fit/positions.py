"""Where a fit stands, as a tree for a checkpoint and back."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ad3d_jax.base import Gather, Phase, State, System, Train, Tree
from ad3d_jax.fit.step import Carry, begin
from ad3d_jax.workdir.trees import as_dicts, by_path, nested, shown

# A choice of rows counts as that many steps, however many rows there are to be chosen.
CHOICE_STEPS = 10**6


class Position(NamedTuple):
    """A moment of a fit."""

    state: State
    phase: int = 0  # index of the phase that runs next or goes on
    carry: Carry | None = None  # of a Train phase that has begun
    # Of a Gather phase that chooses: the carries of `Select` by the names of the leaves
    # that are done and of the one that is not.
    choice: Mapping[str, Tree] | None = None

    @property
    def step(self) -> int:
        """Returns the steps done in a Train phase."""
        return 0 if self.carry is None else int(self.carry.step)


def number(system: System, position: Position) -> int:
    """Returns a number that grows with every step and every end of a phase.

    Each phase counts one more than its steps, so that its last step and its end differ.
    """
    before = system.phases[: position.phase]
    here = position.step
    if position.choice is not None:
        here = 1 + _choice_steps(system.phases[position.phase], position.choice)
    return sum(_steps(phase) + 1 for phase in before) + here


def pack(position: Position) -> dict:
    """Returns the position as nested dicts of host arrays.

    Frozen parts and hyperparameters stay out: both come from the configuration.
    """
    state, carry = position.state, position.carry
    here = {"phase": np.int32(position.phase)}
    tree = {"here": here, "memory": as_dicts(state.memory)}
    if carry is None:
        tree |= {
            "params": as_dicts(state.params),
            "extra": as_dicts(state.extra),
        }
    else:
        here |= {"step": carry.step, "bad": carry.bad}
        tree |= {
            "params": as_dicts(carry.params),
            "extra": as_dicts(carry.extra),
        }
        tree["optimizers"] = as_dicts(carry.optimizers)
    if position.choice is not None:
        tree["choice"] = as_dicts(position.choice)
    return jax.device_get({name: part for name, part in tree.items() if part})


def unpack(system: System, state: State, tree: Mapping) -> Position:
    """Returns the position that `pack` made into a tree.

    Args:
        system: the system that is fitted.
        state: as `init` made it, with frozen parts loaded; gives structure, frozen and
            hyperparameters.
        tree: from `pack`. Its memory may have other shapes than `state.memory`; a
            choice of rows stays as nested dicts, since what it is like is not known
            before it is prepared.

    Raises:
        ValueError: a leaf is missing or unknown, or has another shape or dtype.
    """
    phase = int(tree["here"]["phase"])
    params = in_containers("params", state.params, tree.get("params", {}))
    extra = in_containers("extra", state.extra, tree.get("extra", {}))
    memory = memory_in_containers(state.memory, tree.get("memory", {}))
    if "step" not in tree["here"]:
        state = state._replace(params=params, extra=extra, memory=memory)
        return Position(state, phase, choice=tree.get("choice"))
    state = state._replace(memory=memory)
    like = jax.eval_shape(lambda s: begin(system.phases[phase], s), state)
    carry = Carry(
        params=params,
        extra=extra,
        optimizers=in_containers(
            "optimizers", like.optimizers, tree.get("optimizers", {})
        ),
        step=np.asarray(tree["here"]["step"], np.int32),
        bad=np.asarray(tree["here"]["bad"], np.int32),
    )
    return Position(state, phase, carry)


def pack_all(positions: Sequence[Position]) -> dict:
    """Returns the positions of a population as nested dicts of host arrays.

    What has the same shape in all of them is stacked, which makes fewer files.
    """
    leaves = [by_path(pack(position)) for position in positions]

    def alike(path) -> bool:
        found = [x[path] for x in leaves if path in x]
        kinds = {(np.shape(x), np.asarray(x).dtype) for x in found}
        return len(found) == len(leaves) and len(kinds) == 1

    together = [path for path in leaves[0] if alike(path)]
    tree = {
        ("together", *path): np.stack([x[path] for x in leaves]) for path in together
    }
    for number, own in enumerate(leaves):
        tree |= {
            (str(number), *path): leaf
            for path, leaf in own.items()
            if path not in together
        }
    return nested(tree)


def unpack_all(
    systems: Sequence[System], states: Sequence[State], tree: Mapping
) -> list[Position]:
    """Returns the positions that `pack_all` made into a tree.

    Raises:
        ValueError: see `unpack`.
    """
    positions = []
    for number, (system, state) in enumerate(zip(systems, states, strict=True)):
        stacked = by_path(tree.get("together", {}))
        own = {path: leaf[number] for path, leaf in stacked.items()}
        own |= by_path(tree.get(str(number), {}))
        positions.append(unpack(system, state, nested(own)))
    return positions


def unpack_state(like: State, tree: Mapping) -> State:
    """Returns a whole state that was saved as it is, from nested dicts.

    Args:
        like: of the same system, for structure alone. Frozen parts and memory may have
            other shapes in the tree.
        tree: the leaves as dicts in dicts.

    Raises:
        ValueError: a leaf is missing or unknown, or has another shape or dtype.
    """
    fixed = {
        part: in_containers(part, getattr(like, part), tree.get(part, {}))
        for part in ("params", "extra", "hyper")
    }
    frozen = in_containers("frozen", like.frozen, tree.get("frozen", {}), shapes=False)
    memory = memory_in_containers(like.memory, tree.get("memory", {}))
    return State(frozen=frozen, memory=memory, **fixed)


def restore(system: System, state: State, checkpointer) -> Position | None:
    """Returns the newest position that a checkpointer holds, None where it holds none.

    `position.phase == len(system.phases)` says that the fit is complete;
    `position.state` then is its result.
    """
    found = checkpointer.latest()
    return None if found is None else unpack(system, state, found[1])


def save(system: System, position: Position, checkpointer) -> int:
    """Saves a position and returns its number."""
    step = number(system, position)
    checkpointer.save(step, pack(position))
    return step


def in_containers(part: str, like: Tree, found: Mapping, shapes: bool = True) -> Tree:
    """Returns leaves from nested dicts in the containers of `like`.

    Args:
        part: what the error calls it.
        like: arrays or their shapes.
        found: the leaves by their names in `like`.
        shapes: whether shapes must agree; dtypes must.

    Raises:
        ValueError: a leaf is missing or unknown, or has another shape or dtype.
    """
    wanted, leaves = by_path(like), by_path(found)
    faults = [f"{shown(p)} is missing" for p in wanted if p not in leaves]
    faults += [f"{shown(p)} is unknown" for p in leaves if p not in wanted]
    for path in [path for path in wanted if path in leaves]:
        expected, got = (
            ((np.shape(x),) if shapes else ()) + (str(x.dtype),)
            for x in (wanted[path], leaves[path])
        )
        if expected != got:
            faults.append(f"{shown(path)} is {got}, expected {expected}")
    if faults:
        raise ValueError(
            f"the checkpoint does not fit this configuration: in {part}, "
            + "; ".join(faults)
        )
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[p] for p in wanted])


def memory_in_containers(like: Tree, found: Mapping) -> Tree:
    """Returns a memory from nested dicts, of any shapes.

    An entry takes the container that `like` has for it where the names of its leaves
    agree; what `init` does not foresee stays a dict.
    """
    if not isinstance(like, Mapping):
        like = {}

    def entry(name):
        wanted, leaves = by_path(like.get(name, {})), by_path(found[name])
        if wanted.keys() != leaves.keys():
            return found[name]
        structure = jax.tree.structure(like[name])
        return jax.tree.unflatten(structure, [leaves[path] for path in wanted])

    return {name: entry(name) for name in found}


def _steps(phase: Phase) -> int:
    """Returns how many numbers a phase has besides that of its end."""
    if isinstance(phase, Train):
        return phase.steps
    return CHOICE_STEPS if isinstance(phase, Gather) and phase.select else 0


def _choice_steps(phase: Gather, choice: Mapping[str, Tree]) -> int:
    """Returns how many numbers the choices take that were made; each has its share."""
    pairs = [phase.select[leaf].done(carry) for leaf, carry in choice.items()]
    each = (CHOICE_STEPS - 1) // len(phase.select)
    return sum(each * done // total for done, total in pairs)
