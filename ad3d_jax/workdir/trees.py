"""The leaves of a tree by the keys on the way to them, and back."""

from collections.abc import Mapping
from typing import Any

import jax

from ad3d_jax.base import Tree

Path = tuple[str, ...]
_ONLY = ("value",)  # where a tree that is one leaf has it


def by_path(tree: Tree) -> dict[Path, Any]:
    """Returns the leaves by their paths, such as ("params", "dense", "kernel").

    Fields of named tuples count by their names, places in lists by their numbers.
    Containers without leaves have no path.

    Raises:
        ValueError: two leaves have the same path.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    keys = [
        tuple(jax.tree_util.keystr((key,), simple=True) for key in path) or _ONLY
        for path, _ in leaves
    ]
    return _unique(zip(keys, (leaf for _, leaf in leaves), strict=True))


def by_name(tree: Tree) -> dict[str, Any]:
    """Returns the leaves by the names that files of weights have for them.

    A name is the keys of a path joined by "/", such as "dense/kernel".

    Raises:
        ValueError: two leaves have the same name.
    """
    return _unique((shown(path), leaf) for path, leaf in by_path(tree).items())


def as_dicts(tree: Tree) -> dict[str, Any]:
    """Returns a tree as dicts in dicts, whatever its containers are."""
    return nested(by_path(tree))


def nested(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """Returns leaves by their paths as dicts in dicts."""
    tree: dict[str, Any] = {}
    for (*outer, last), leaf in leaves.items():
        node = tree
        for key in outer:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def shown(path: Path) -> str:
    """Returns a path as text, such as "params/dense/kernel"."""
    return "/".join(path)


def _unique(pairs) -> dict:
    found: dict = {}
    for name, leaf in pairs:
        if name in found:
            raise ValueError(f"two leaves of the tree have the same name, {name!r}")
        found[name] = leaf
    return found
