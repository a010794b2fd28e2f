"""The central types: defaults that nothing shares, and what JAX makes of them."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_systems import bank

from ad3d_jax.base import Batch, Scores, State, scoring, with_cache
from ad3d_jax.testing import make_batch


def makers():
    return [
        (State, "memory"),
        (State, "params"),
        (State, "hyper"),
        (Batch, "extras"),
        (lambda: Scores(np.zeros(1), np.zeros(1)), "parts"),
    ]


@pytest.mark.parametrize(("make", "field"), makers())
def test_what_is_written_to_one_reaches_no_other(make, field):
    before, written = make(), make()
    getattr(written, field)["name"] = 1
    assert getattr(before, field) == {} == getattr(make(), field)
    assert getattr(written._replace(), field) == {"name": 1}


def test_fields_of_one_state_share_nothing():
    state = State()
    state.extra["name"] = 1
    assert state == State(extra={"name": 1})


def test_jax_takes_them_as_the_named_tuples_that_they_are():
    state = State(params={"w": jnp.ones(2)}, frozen=jnp.ones(3))
    assert jax.tree.structure(State()) == jax.tree.structure(State(memory={}))
    doubled = jax.tree.map(lambda x: 2 * x, state)
    assert type(doubled) is State and doubled.memory == {}
    np.testing.assert_array_equal(doubled.params["w"], 2)
    moved = jax.jit(lambda s: s._replace(extra={"a": s.frozen}))(state)
    assert jax.tree.structure(moved) == jax.tree.structure(
        state._replace(extra={"a": 0})
    )
    # A part that is None is kept: so axes are given, and leaves taken out.
    axes = State(params=None, frozen=0)
    assert axes.params is None
    found = jax.vmap(lambda s: s.frozen + s.params["w"][0], in_axes=(axes,))(state)
    np.testing.assert_array_equal(found, 2)
    leaves, structure = jax.tree.flatten(state)
    assert jax.tree.unflatten(structure, [None] * len(leaves)).frozen is None


def test_they_can_be_copied_and_pickled():
    state = State(memory={"bank": 1})
    assert copy.deepcopy(state) == state == pickle.loads(pickle.dumps(state))
    assert repr(State()).startswith("State(params={}, frozen={}")
    with pytest.raises(TypeError, match="memories"):
        State(memories={})


def test_the_cache_is_among_the_extras_beside_what_was_there():
    system, batch = bank(), make_batch(2, size=8)
    state = system.init(jax.random.key(0), batch)
    seen = with_cache(system, state, batch)
    assert set(seen.extras) == {*batch.extras, "features"}
    assert batch.extras and "features" not in batch.extras
    plain = system._replace(cache=None)
    assert with_cache(plain, state, batch) is batch
    ready = state._replace(memory={"bank": jnp.zeros((1, 8)), "id": batch.id[:1]})
    found = scoring(system)(jax.random.key(1), ready, batch)
    expected = system.score(jax.random.key(1), ready, seen)
    np.testing.assert_array_equal(found.map, expected.map)
