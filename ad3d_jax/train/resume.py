"""Where a fit stands, as a tree for a checkpoint and back."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from ad3d_jax.base import State, System, Train, Tree
from ad3d_jax.train.step import Carry, begin


class Position(NamedTuple):
    """A moment of a fit."""

    state: State
    phase: int = 0  # index of the phase that runs next or goes on
    carry: Carry | None = None  # of a Train phase that has begun

    @property
    def step(self) -> int:
        """Returns the steps done in the phase."""
        return 0 if self.carry is None else int(self.carry.step)


def number(system: System, position: Position) -> int:
    """Returns a number that grows with every step and every end of a phase.

    Each phase counts one more than its steps, so that its last step and its end differ.
    """
    before = system.phases[: position.phase]
    return sum(_steps(phase) + 1 for phase in before) + position.step


def pack(position: Position) -> dict:
    """Returns the position as nested dicts of host arrays.

    Frozen parts and hyperparameters stay out: both come from the configuration.
    """
    state, carry = position.state, position.carry
    here = {"phase": np.int32(position.phase)}
    tree = {"here": here, "memory": _nested(state.memory)}
    if carry is None:
        tree |= {"params": _nested(state.params), "extra": _nested(state.extra)}
    else:
        here |= {"step": carry.step, "bad": carry.bad}
        tree |= {"params": _nested(carry.params), "extra": _nested(carry.extra)}
        tree["optimizers"] = _nested(carry.optimizers)
    return jax.device_get({name: part for name, part in tree.items() if part})


def unpack(system: System, state: State, tree: Mapping) -> Position:
    """Returns the position that `pack` made into a tree.

    Args:
        system: the system that is fitted.
        state: as `init` made it, with frozen parts loaded; gives structure, frozen and
            hyperparameters.
        tree: from `pack`. Its memory may have other shapes than `state.memory`.

    Raises:
        ValueError: a leaf is missing or unknown, or has another shape or dtype.
    """
    phase = int(tree["here"]["phase"])
    params = _restored("params", state.params, tree)
    extra = _restored("extra", state.extra, tree)
    memory = _memory(state.memory, tree.get("memory", {}))
    if "step" not in tree["here"]:
        return Position(
            state._replace(params=params, extra=extra, memory=memory), phase
        )
    state = state._replace(memory=memory)
    like = jax.eval_shape(lambda s: begin(system.phases[phase], s), state)
    carry = Carry(
        params=params,
        extra=extra,
        optimizers=_restored("optimizers", like.optimizers, tree),
        step=np.asarray(tree["here"]["step"], np.int32),
        bad=np.asarray(tree["here"]["bad"], np.int32),
    )
    return Position(state, phase, carry)


def restore(system: System, state: State, checkpointer) -> Position | None:
    """Returns the newest position that a checkpointer holds, None where it holds none.

    `position.phase == len(system.phases)` says that the fit is complete;
    `position.state` then is its result.
    """
    found = checkpointer.latest(None)
    return None if found is None else unpack(system, state, found[1])


def save(system: System, position: Position, checkpointer) -> int:
    """Saves a position and returns its number."""
    step = number(system, position)
    checkpointer.save(step, pack(position))
    return step


def _steps(phase) -> int:
    return phase.steps if isinstance(phase, Train) else 0


def _named(tree: Tree) -> dict[tuple[str, ...], object]:
    """Returns the leaves by their path of names."""
    leaves, _ = tree_flatten_with_path(tree)
    return {
        tuple(keystr((part,), simple=True) for part in path) or ("value",): leaf
        for path, leaf in leaves
    }


def _nested(tree: Tree) -> dict:
    """Returns the leaves as dicts in dicts, whatever the containers were."""
    result: dict = {}
    for path, leaf in _named(tree).items():
        node = result
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return result


def _restored(part: str, like: Tree, tree: Mapping) -> Tree:
    """Returns a part of a packed tree in the structure of `like`."""
    wanted, found = _named(like), _named(tree.get(part, {}))
    faults = [f"{'/'.join(p)} is missing" for p in wanted if p not in found]
    faults += [f"{'/'.join(p)} is unknown" for p in found if p not in wanted]
    for path in [path for path in wanted if path in found]:
        expected = (wanted[path].shape, np.dtype(wanted[path].dtype))
        got = (np.shape(found[path]), np.dtype(found[path].dtype))
        if expected != got:
            faults.append(f"{'/'.join(path)} is {got}, expected {expected}")
    if faults:
        raise ValueError(
            f"the checkpoint does not fit this configuration: in {part}, "
            + "; ".join(faults)
        )
    return jax.tree.unflatten(jax.tree.structure(like), [found[p] for p in wanted])


def _memory(like: Tree, found: Mapping) -> Tree:
    """Returns the memory, in the containers of `like` where the names agree."""
    wanted, leaves = _named(like), _named(found)
    if wanted.keys() != leaves.keys():
        return found
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[p] for p in wanted])
