from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from ad3d_jax.workdir import trees


class Pair(NamedTuple):
    first: int
    second: tuple


TREE = {"a": Pair(1, (2, [3, None])), "a/b": 4, "c": {"d": 5, "empty": {}}, "n": ()}


def test_paths_are_the_keys_on_the_way():
    assert trees.by_path(TREE) == {
        ("a", "first"): 1,
        ("a", "second", "0"): 2,
        ("a", "second", "1", "0"): 3,
        ("a/b",): 4,
        ("c", "d"): 5,
    }


def test_names_are_as_files_of_weights_have_them():
    names = ["a/first", "a/second/0", "a/second/1/0", "a/b", "c/d"]
    assert list(trees.by_name(TREE)) == names
    assert trees.shown(("params", "dense")) == "params/dense"


def test_a_tree_becomes_dicts_and_stays_so():
    expected = {
        "a": {"first": 1, "second": {"0": 2, "1": {"0": 3}}},
        "a/b": 4,
        "c": {"d": 5},
    }
    assert trees.as_dicts(TREE) == expected
    assert trees.as_dicts(expected) == expected
    assert trees.nested({}) == {}


def test_one_leaf_alone_has_a_name():
    assert trees.by_path(np.float32(2)) == {("value",): 2}
    assert trees.as_dicts(3) == {"value": 3}


def test_the_order_is_that_of_the_leaves():
    state = optax.adam(0.1).init({"w": np.ones(2), "b": np.zeros(1)})
    leaves = jax.tree.leaves(state)
    assert all(
        x is y for x, y in zip(trees.by_path(state).values(), leaves, strict=True)
    )


def test_two_leaves_of_one_name_are_refused():
    tree = {"a/b": 1, "a": {"b": 2}}
    assert len(trees.by_path(tree)) == 2
    with pytest.raises(ValueError, match="same name, 'a/b'"):
        trees.by_name(tree)
