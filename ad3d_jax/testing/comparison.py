"""Comparisons of trees of arrays whose failures are sentences."""

import jax
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from ad3d_jax.base import Scores, Tree


class ContractError(AssertionError):
    """A system breaks the contract; says which clause, what was expected and found."""


def require(condition: bool, expected: str, found: object) -> None:
    """Raises ContractError with what was expected and found, unless it holds."""
    if not condition:
        raise ContractError(f"expected {expected}, found {found}")


def leaves_of(tree: Tree) -> dict[str, np.ndarray]:
    """Returns the leaves on the host, by names such as `params/encoder`."""
    return {
        keystr(path, simple=True, separator="/"): np.asarray(jax.device_get(leaf))
        for path, leaf in tree_leaves_with_path(tree)
    }


def _paired(found: Tree, expected: Tree, what: str) -> list[tuple[str, np.ndarray]]:
    """Returns (name, found, expected) of each leaf."""
    found, expected = leaves_of(found), leaves_of(expected)
    require(
        found.keys() == expected.keys(),
        f"{what} to hold {', '.join(sorted(expected)) or 'nothing'}",
        ", ".join(sorted(found)) or "nothing",
    )
    for name, x in found.items():
        y = expected[name]
        require(
            (x.shape, x.dtype) == (y.shape, y.dtype),
            f"{what}: {name} of shape {y.shape} and dtype {y.dtype}",
            f"{x.shape} and {x.dtype}",
        )
    return [(name, x, expected[name]) for name, x in found.items()]


def same(found: Tree, expected: Tree, what: str) -> None:
    """Requires equal bits; `what` says of what, and why."""
    for name, x, y in _paired(found, expected, what):
        if not np.array_equal(x, y, equal_nan=x.dtype.kind == "f"):
            apart = np.count_nonzero(~((x == y) | ((x != x) & (y != y))))
            require(False, f"{what} to be the same bits", f"{apart} others in {name}")


def near(found: Tree, expected: Tree, tolerance: float, what: str) -> None:
    """Requires closeness relative to the largest magnitude of each leaf."""
    for name, x, y in _paired(found, expected, what):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        scale = max(np.abs(y).max(initial=0), 1e-3)
        apart = np.abs(x - y).max(initial=0) / scale
        require(
            apart <= tolerance,
            f"{what} to agree to {tolerance:.0e} of the largest",
            f"{apart:.1e} in {name or 'it'}",
        )


def near_scores(found: Scores, expected: Scores, tolerance: float, what: str) -> None:
    """Requires scores that agree, and 1e-5 of what only illustrates them."""
    near(found.map, expected.map, tolerance, f"{what}: the map")
    near(found.image, expected.image, tolerance, f"{what}: the image score")
    near(found.parts, expected.parts, max(tolerance, 1e-5), f"{what}: parts")
    same(found.match, expected.match, f"{what}: match")


def differ(one: Tree, other: Tree) -> bool:
    """Returns whether any leaf differs."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def finite(tree: Tree, what: str) -> None:
    """Requires finite numbers in every leaf."""
    for name, x in leaves_of(tree).items():
        bad = np.count_nonzero(~np.isfinite(x))
        require(bad == 0, f"{what} to be finite", f"{bad} that are not in {name}")
