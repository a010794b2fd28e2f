"""One store of frozen features for many fits: what is found again, and what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_fit import KEY, QUIET, same

from ad3d_jax.base import Gather, State, Sum, System
from ad3d_jax.devices import engines
from ad3d_jax.devices.memory import MemoryLimitError
from ad3d_jax.fit.cache_keys import Key, origins
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.fit.fit import fit
from ad3d_jax.testing import MemoryDataset, make_batch

LAYERS = ("one", "two", "three")
TIGHT = QUIET._replace(host_memory_bytes=10_000)  # the features of 6 take 4608 B


def weights(seed=0):
    keys = jax.random.split(jax.random.key(seed), len(LAYERS))
    return {n: jax.random.normal(k, (3, 3)) for n, k in zip(LAYERS, keys, strict=True)}


@pytest.fixture
def seen():
    """Returns the ids of the samples that passed through the network, as they did."""
    return []


@pytest.fixture(scope="module")
def data():
    return MemoryDataset({"train": make_batch(6, size=8)})


def tapped(seen, layers, scale=1.0, passes=1, kind="gather"):
    """Returns a system on the maps of some layers of a network, and its state."""

    def note(ids):
        seen.extend(i for i in ids.tolist() if i)  # padding has none

    def cache(state, batch):
        jax.debug.callback(note, batch.id)
        x, found = batch.rgb, {}
        for name in LAYERS[: 1 + max(map(LAYERS.index, layers))]:
            x = jax.nn.relu(x @ state.frozen[name]) * scale
            found[name] = x
        return {name: found[name] for name in layers}

    def emit(key, state, batch):
        return {name: batch.extras[name] for name in layers}

    def absorb(key, state, rows):
        return state._replace(memory={n: jnp.asarray(x) for n, x in rows.items()})

    def add(key, state, batch):
        weight = batch.weight[:, None, None, None]
        return {name: jnp.sum(weight * batch.extras[name], 0) for name in layers}

    def finish(key, state, sums):
        return state._replace(memory=jax.tree.map(np.float32, sums))

    phase = Gather("g", emit, absorb) if kind == "gather" else Sum("s", add, finish)
    phases = tuple(phase._replace(name=f"p{n}") for n in range(passes))
    return System("tapped", (), (), None, phases, None, cache=cache)


def fitted(system, data, store=None, options=QUIET, frozen=None):
    state = State(frozen=weights() if frozen is None else frozen)
    engine = engines.make_engine("jit")
    found = fit(system, state, KEY, data, options, engine, store=store)
    jax.effects_barrier()
    return found.memory


def test_each_layer_is_computed_once_for_all_fits(data, seen):
    store, ids = Store(lasting=True), sorted(data.splits["train"].id.tolist())

    def alone(layers):
        return fitted(tapped([], layers), data)

    for layers, passes in (
        (("one", "two"), 1),
        (("two",), 0),
        (("two", "one"), 0),
        (("three", "two"), 1),  # three is missing
        (("one", "three"), 0),
    ):
        seen.clear()
        same(fitted(tapped(seen, layers), data, store), alone(layers))
        assert sorted(seen) == sorted(passes * ids), layers


def test_the_whole_takes_from_a_part_what_it_has_and_so_do_copies(data, seen):
    store, ids = Store(lasting=True), data.splits["train"].id.tolist()
    system, options = tapped(seen, ("two",)), QUIET._replace(batch_size=2)
    fitted(system, data.only("train", np.array([0, 1])), store, options)
    assert sorted(seen) == sorted(ids[:2])
    seen.clear()
    fitted(system, data, store, options)
    assert sorted(seen) == sorted(ids[2:])
    seen.clear()
    # The same samples under other ids, in another order, read as another object.
    other = jax.tree.map(lambda x: x[::-1], data.splits["train"])
    other = other._replace(id=np.arange(6, dtype=np.int32))
    fitted(system, MemoryDataset({"train": other}), store, options)
    assert not seen


@pytest.mark.parametrize("what", ["weights", "constant", "recipe", "size"])
def test_what_differs_is_not_shared(data, what, seen):
    store = Store(lasting=True)
    fitted(tapped(seen, ("two",)), data, store)
    seen.clear()
    system, frozen = tapped(seen, ("two",)), weights()
    if what == "weights":
        frozen["one"] = frozen["one"].at[0, 0].add(1e-6)
    elif what == "constant":
        system = tapped(seen, ("two",), scale=1.5)
    elif what == "recipe":
        brighter = data.splits["train"].rgb * np.float32(0.999)
        data = MemoryDataset({"train": data.splits["train"]._replace(rgb=brighter)})
    else:
        data = MemoryDataset({"train": make_batch(6, size=10)})
    found = fitted(system, data, store, frozen=frozen)
    assert len(seen) == 6
    same(found, fitted(system, data, frozen=frozen))


def test_weights_that_a_layer_does_not_read_do_not_matter(data, seen):
    store, other = Store(lasting=True), weights()
    fitted(tapped(seen, ("one",)), data, store)
    seen.clear()
    del other["three"], other["two"]
    fitted(tapped(seen, ("one",)), data, store, frozen=other | {"head": jnp.ones(2)})
    assert not seen


def test_the_origin_names_what_is_read():
    batch = make_batch(3, size=8)
    frozen, constant = weights(), np.ones((1, 1, 1, 3), np.float32)

    def cache(state, batch):
        return {
            "plain": batch.rgb,
            "nested": jax.jit(lambda x: x * constant)(batch.xyz),
            "both": batch.rgb @ state.frozen["one"] + batch.xyz,
        }

    def found(state):
        return origins(System("s", (), (), None, (), None, cache=cache), state, batch)

    first = found(State(frozen=frozen))
    fields = {name: origin.fields for name, origin in first.items()}
    assert fields == {
        "plain": (".rgb",),
        "nested": (".xyz",),
        "both": (".rgb", ".xyz"),
    }
    assert first["both"].like.shape == (8, 8, 3)
    constant += 1  # within the nested function
    frozen = frozen | {"one": frozen["one"] + 1}
    second = found(State(frozen=frozen))
    assert {n for n in first if first[n] != second[n]} == {"nested", "both"}


@pytest.mark.parametrize("kind", ["gather", "sum"])
def test_what_memory_has_no_room_for_is_in_files_that_others_find(
    data, seen, tmp_path, kind
):
    folder = tmp_path / "features"
    expected = fitted(tapped([], ("one", "two"), kind=kind), data)
    for passes in (1, 0):  # the second as another worker of a study
        seen.clear()
        store = Store(folder, lasting=True)
        system = tapped(seen, ("one", "two"), kind=kind)
        same(fitted(system, data, store, TIGHT), expected)
        assert len(seen) == 6 * passes
        assert not store.bytes
    assert len(list(folder.glob("*/*.npy"))) == 2 * 6


def test_where_there_is_no_room_passes_compute_them_themselves(data, seen):
    twice = tapped(seen, ("two",), passes=2)
    expected = fitted(twice, data)
    assert len(seen) == 6
    seen.clear()
    tight = QUIET._replace(host_memory_bytes=9000)
    same(fitted(twice, data, options=tight), expected)
    assert len(seen) == 12
    with pytest.raises(MemoryLimitError, match="half may hold features"):
        Store().make_room(60, 100, "these")


def test_the_budget_counts_what_is_held():
    store = Store()
    put = store.make_room(400, 1000, "these")
    put(Key("program", "sample"), np.zeros(100, np.float32))
    assert store.bytes == 400
    store.make_room(100, 600, "more")
    with pytest.raises(MemoryLimitError):
        store.make_room(101, 600, "too much")
