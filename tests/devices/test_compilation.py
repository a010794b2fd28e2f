"""Engines on 1, 2 and 4 devices against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from ad3d_jax.base import Batch, State
from ad3d_jax.devices import compilation, engines
from ad3d_jax.ops import knn
from ad3d_jax.testing import make_batch, pad

ENGINES = [
    ("jit", 1),
    ("pmap", 1),
    ("pmap", 2),
    ("pmap", 4),
    ("shard_map", 2),
    ("shard_map", 4),
]


def engine_of(kind, devices):
    return engines.make_engine(kind, jax.devices()[:devices])


def small_batch(weights):
    rows = len(weights)
    x = np.arange(rows * 12, dtype=np.float32).reshape(rows, 2, 2, 3)
    weights = np.asarray(weights, np.float32)
    x[weights == 0] = np.nan
    return Batch(
        rgb=x,
        foreground=np.ones((rows, 2, 2, 1), bool),
        weight=weights,
        id=np.arange(rows, dtype=np.int32),
        mask=np.ones((rows, 2, 2, 1), bool),
    )


@pytest.mark.parametrize(("kind", "devices"), ENGINES)
def test_step_reduces_over_all_rows_and_keeps_row_order(kind, devices):
    engine = engine_of(kind, devices)
    # With two rows a device the last of four devices holds padding alone.
    weights = [1, 1, 0, 1, 1, 1, 0, 0]
    batch = small_batch(weights)

    def step(key, fixed, carry, batch, across):
        assert batch.mask is None and batch.xyz is None
        local = jnp.sum(batch.rgb * batch.weight.reshape(-1, 1, 1, 1))
        total = carry["total"] + fixed["scale"] * across.sum(local)
        ids = across.gather(batch.id)
        return {"total": total}, {
            "ids": ids,
            "foreground": across.gather(batch.foreground),
        }

    compiled = compilation.compile_step(engine, step)
    key, fixed = engines.replicate(
        engine, (jax.random.key(0), {"scale": jnp.float32(2)})
    )
    start = {"total": jnp.zeros(())}
    carry = engines.replicate(engine, start, copy=True)
    for _ in range(3):
        carry, report = compiled(key, fixed, carry, engines.split(engine, batch))
    real = np.asarray(weights) > 0
    expected = 3 * 2 * batch.rgb[real].sum()
    assert float(carry["total"]) == expected
    assert float(start["total"]) == 0, "the caller's array was donated"
    np.testing.assert_array_equal(report["ids"], np.where(real, batch.id, 0))
    np.testing.assert_array_equal(report["foreground"].any((1, 2, 3)), real)
    assert compiled.traces == 1


@pytest.mark.parametrize(("kind", "devices"), ENGINES)
def test_map_rows_gives_the_rows_in_order_without_padding(kind, devices):
    engine = engine_of(kind, devices)
    batches = [small_batch([1] * 8), small_batch([1] * 5 + [0] * 3)]

    def double(key, state, batch):
        return {
            "twice": state * batch.rgb,
            "draw": jax.random.uniform(key, (len(batch.id),)),
        }

    compiled = compilation.compile_map(engine, double)
    key, state = engines.replicate(engine, (jax.random.key(0), jnp.float32(2)))
    found = list(compilation.map_rows(engine, compiled, key, state, batches))
    assert [len(batch.id) for batch, _ in found] == [8, 5]
    for (batch, rows), whole in zip(found, batches, strict=True):
        np.testing.assert_array_equal(rows["twice"], 2 * whole.rgb[: len(batch.id)])
        assert batch.mask is not None, "the truth stays with the host's batch"
    assert compiled.traces == 1


def test_an_empty_argument_does_not_confuse_pmap():
    # jax 0.10 takes a wrong path when leaves and arguments are equal in number.
    engine = engine_of("pmap", 2)
    batch = Batch(weight=np.ones(4, np.float32), id=np.arange(4, dtype=np.int32))

    def step(key, fixed, carry, batch, across):
        return carry + across.sum(jnp.sum(batch.id)), ()

    compiled = compilation.compile_step(engine, step)
    key, carry = engines.replicate(engine, (jax.random.key(0), jnp.int32(0)))
    carry, _ = compiled(key, {}, carry, engines.split(engine, batch))
    assert int(carry) == 6


def test_an_indivisible_batch_is_a_clear_error():
    engine = engine_of("pmap", 4)
    with pytest.raises(ValueError, match="batch size 6 .* 4 devices"):
        engines.split(engine, make_batch(6, size=4))
    with pytest.raises(ValueError, match="batch size 3 .* 4 devices"):
        engines.split(engine, make_batch(3, size=4))


def test_an_unknown_engine_is_a_clear_error():
    with pytest.raises(ValueError, match="'pmpa'.*pmap, shard_map, jit"):
        engines.make_engine("pmpa")


def test_zero_padding_clears_garbage_in_values_and_gradients():
    batch = jax.tree.map(jnp.asarray, pad(make_batch(2, size=4), 1))

    def norm(x):
        return jnp.sum(
            jnp.sqrt(compilation.zero_padding(batch._replace(rgb=x)).rgb + 1)
        )

    gradient = jax.grad(norm)(batch.rgb)
    assert np.isfinite(gradient).all() and not gradient[2].any() and gradient[0].all()
    clean = compilation.zero_padding(batch)
    assert not any(np.asarray(x[2]).any() for x in jax.tree.leaves(clean))


def test_the_third_trace_is_reported(monkeypatch):
    said = []
    monkeypatch.setattr(absl_logging, "warning", lambda *a: said.append(a[0] % a[1:]))
    engine = engine_of("jit", 1)
    compiled = compilation.compile_map(engine, lambda k, s, b: b.weight, name="score")
    key = engines.replicate(engine, jax.random.key(0))
    for rows in (1, 2, 2):
        compiled(key, {}, engines.split(engine, make_batch(rows, size=2)))
    assert compiled.traces == 2 and not said
    compiled(key, {}, engines.split(engine, make_batch(3, size=2)))
    assert len(said) == 1 and "score is traced for the third time" in said[0]


@pytest.mark.parametrize("rows", [1, 3, 37, 64])
@pytest.mark.parametrize(("kind", "devices"), ENGINES)
def test_a_bank_that_is_split_finds_what_the_whole_one_finds(kind, devices, rows):
    engine = engine_of(kind, devices)
    rng = np.random.default_rng(rows)
    stored = rng.integers(0, 3, (rows, 3)).astype(np.float32)  # many ties
    bank = knn.build(stored, chunk_bytes=2**12)
    state = State(params={"scale": jnp.float32(1)}, memory={"bank": bank, "x": rows})
    batch = Batch(
        rgb=rng.integers(0, 3, (8, 1, 1, 3)).astype(np.float32),
        weight=np.ones(8, np.float32),
        id=np.arange(8, dtype=np.int32),
    )

    def search(key, state, batch):
        queries = batch.rgb.reshape(-1, 3) * state.params["scale"]
        found = knn.nearest(state.memory["bank"], queries, k=min(2, rows))
        return *found, knn.take(state.memory["bank"], found.number)

    key = engines.replicate(engine, jax.random.key(0))
    compiled = compilation.compile_map(engine, search)
    placed = engines.place(engine, state, ("bank",))
    assert (placed.memory["bank"].rows.ndim == 3) == (kind != "jit")
    for _ in range(2):
        found = engines.join(compiled(key, placed, engines.split(engine, batch)))
    assert compiled.traces == 1
    distance, number, taken = found
    apart = np.linalg.norm(
        batch.rgb.reshape(8, 1, 3) - stored.reshape(1, -1, 3), axis=2
    )
    order = np.argsort(apart, axis=1, kind="stable")[:, : min(2, rows)]
    np.testing.assert_array_equal(number, order)
    np.testing.assert_array_equal(distance, np.take_along_axis(apart, order, 1))
    np.testing.assert_array_equal(taken, stored[order])
    # The caller's bank is as it was.
    assert state.memory["bank"].rows.shape == (rows, 3)


@pytest.mark.parametrize(("kind", "devices"), ENGINES)
def test_split_rows_reach_their_devices_with_their_numbers(kind, devices):
    engine = engine_of(kind, devices)
    rows = np.arange(7, dtype=np.float32) + 10
    data = engines.split_rows(engine, {"x": rows, "y": rows.reshape(7, 1)})
    each = -(-7 // devices)
    assert data["x"].shape == (devices, each) and data["y"].shape == (devices, each, 1)

    def add(data, carry, across):
        real = data["number"] >= 0
        total = carry["total"] + across.sum(jnp.sum(jnp.where(real, data["x"], 0)))
        every = across.gather(data["number"])
        x = across.gather(data["x"])
        return {"total": total, "number": every, "x": x}

    compiled = compilation.compile_rows(engine, add)
    more = devices * each - 7
    nothing = np.zeros(devices * each, np.float32)
    carry = engines.replicate(
        engine,
        {"total": np.float32(0), "number": nothing.astype(np.int32), "x": nothing},
    )
    for _ in range(2):
        carry = compiled(carry, data)
    assert compiled.traces == 1
    assert float(carry["total"]) == 2 * rows.sum()
    numbers = [*range(7), *[-1] * more]
    np.testing.assert_array_equal(carry["number"], numbers)
    np.testing.assert_array_equal(carry["x"], [*rows, *[16] * more])


def test_a_training_step_may_read_a_split_bank():
    engine = engine_of("pmap", 4)
    bank = knn.build(np.arange(6, dtype=np.float32).reshape(6, 1))
    state = engines.place(engine, State(memory={"bank": bank}), ("bank",))

    def step(key, fixed, carry, batch, across):
        found = knn.nearest(fixed.memory["bank"], batch.weight.reshape(-1, 1) * 4.4)
        return carry + across.sum(jnp.sum(found.number)), ()

    compiled = compilation.compile_step(engine, step)
    key, carry = engines.replicate(engine, (jax.random.key(0), jnp.int32(0)))
    batch = Batch(weight=np.ones(4, np.float32), id=np.arange(4, dtype=np.int32))
    carry, _ = compiled(key, state, carry, engines.split(engine, batch))
    assert int(carry) == 4 * 4
