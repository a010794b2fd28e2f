"""What the members of a population share, and what is each one's own."""

from collections.abc import Sequence

import jax
import numpy as np

from ad3d_jax.base import Array, State, Tree


def partition(trees: Sequence[Tree]) -> tuple[Tree, Tree]:
    """Returns (shared, own) of trees of one structure, on the host.

    A leaf that is equal in all trees stands in `shared`; any other is stacked, [K,...],
    in `own`; where it does not stand is None.

    Raises:
        ValueError: structures, or shapes of a leaf, differ.
    """
    structure = jax.tree.structure(trees[0])
    if any(jax.tree.structure(tree) != structure for tree in trees):
        raise ValueError("the members of a population differ in structure")
    shared, own = [], []
    for column in zip(*map(jax.tree.leaves, trees), strict=True):
        one = all(same(column[0], x) for x in column)
        shared.append(column[0] if one else None)
        own.append(None if one else _stack(column))
    return jax.tree.unflatten(structure, shared), jax.tree.unflatten(structure, own)


def combine(shared: Tree, own: Tree) -> Tree:
    """Inverts `partition` for one member, `own` without its leading axis."""
    return jax.tree.map(
        lambda one, each: each if one is None else one,
        shared,
        own,
        is_leaf=lambda x: x is None,
    )


def stack(trees: Sequence[Tree]) -> Tree:
    """Returns the leaves of all members as host arrays [K,...]."""
    return jax.tree.map(lambda *column: _stack(column), *trees)


def unstack(tree: Tree, count: int) -> list[Tree]:
    """Returns the trees of the first `count` members of host leaves [K,...]."""
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]


def same(one: Array, other: Array) -> bool:
    """Returns whether two arrays are equal in shape, dtype and every number."""
    return one is other or (
        np.shape(one) == np.shape(other)
        and one.dtype == other.dtype
        and np.array_equal(one, other)
    )


def unified(state: State, first: State) -> State:
    """Returns the state; what it has in common with the first is held once.

    Frozen parts and memory alone are looked at.
    """

    def unify(part: Tree, like: Tree) -> Tree:
        if jax.tree.structure(part) != jax.tree.structure(like):
            return part
        return jax.tree.map(lambda x, y: y if same(x, y) else x, part, like)

    return state._replace(
        frozen=unify(state.frozen, first.frozen),
        memory=unify(state.memory, first.memory),
    )


def _stack(column: Sequence[Array]) -> np.ndarray:
    shapes = {np.shape(x) for x in column}
    if len(shapes) > 1:
        raise ValueError(
            f"the members of a population have a leaf of different shapes: "
            f"{', '.join(map(str, sorted(shapes)))}; train them apart"
        )
    return np.stack([np.asarray(x) for x in column])
