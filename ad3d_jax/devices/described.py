"""Shapes of a tree as JSON, its containers by name, and back."""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Tree

LIBRARY = "ad3d_jax."


def described(tree: Tree) -> Any:
    """Returns a tree of arrays, or of their shapes, as JSON holds it.

    Raises:
        TypeError: a container is none of this library's, nor dict, list or tuple, or
            what it holds is no array of numbers.
    """
    if tree is None or isinstance(tree, str | int | float):
        return tree
    if type(tree) is dict and all(isinstance(name, str) for name in tree):
        return {"dict": {name: described(x) for name, x in tree.items()}}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [described(x) for x in tree]}
    if hasattr(tree, "dtype") and isinstance(tree.dtype, np.dtype):
        return {"shape": list(tree.shape), "dtype": str(tree.dtype)}
    if hasattr(tree, "_asdict"):
        parts = tree._asdict()
    elif dataclasses.is_dataclass(tree):
        fields = {f.name: (f, getattr(tree, f.name)) for f in dataclasses.fields(tree)}
        parts = {name: x for name, (f, x) in fields.items() if x is not f.default}
    else:
        raise TypeError(f"expected a container of this library, found {type(tree)}")
    kind = type(tree)
    named = {name: described(x) for name, x in parts.items()}
    return {"class": [kind.__module__, kind.__name__], "parts": named}


def rebuilt(told: Any) -> Tree:
    """Inverts `described`, with shapes in place of arrays.

    Raises:
        TypeError: it names a class that is not one of this library's containers.
    """
    if not isinstance(told, dict):
        return told
    if "dict" in told:
        return {name: rebuilt(x) for name, x in told["dict"].items()}
    for kind in (list, tuple):
        if kind.__name__ in told:
            return kind(rebuilt(x) for x in told[kind.__name__])
    if "shape" in told:
        return jax.ShapeDtypeStruct(tuple(told["shape"]), jnp.dtype(told["dtype"]))
    parts = {name: rebuilt(x) for name, x in told["parts"].items()}
    return _container(*told["class"])(**parts)


def _container(module: str, name: str) -> type:
    """Returns a class of this library by its name; nothing is imported for it."""
    found = getattr(sys.modules.get(module), name, None)
    is_container = hasattr(found, "_fields") or dataclasses.is_dataclass(found)
    if not module.startswith(LIBRARY) or not is_container:
        raise TypeError(f"expected a container of this library, found {module}.{name}")
    return found
