"""Sum phases against NumPy in float64, on any batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_systems import moments, pixels
from test_fit import KEY, QUIET, MemoryLog, StopAfter, same, start

from ad3d_jax.base import ALONE, State, Sum, System, scoring
from ad3d_jax.devices import engines
from ad3d_jax.devices.memory import MemoryLimitError
from ad3d_jax.fit.fit import Preempted, fit
from ad3d_jax.fit.sum import nothing, plus
from ad3d_jax.testing import MemoryDataset, make_batch

PLACES = [("jit", 1), ("pmap", 2), ("pmap", 4), ("shard_map", 4)]


def engine_of(kind="jit", devices=1):
    return engines.make_engine(kind, jax.devices()[:devices])


@pytest.fixture(scope="module")
def data():
    return MemoryDataset({"train": make_batch(21, size=8)})


def truth(batch, weight=1.0):
    """Returns mean and covariance of weighted samples' pixels in float64."""
    x = np.float64(pixels(batch))
    weight = np.broadcast_to(np.float64(weight), len(x))
    share = weight / weight.sum() / x[0, ..., 0].size
    mean = np.einsum("b,bhwc->c", share, x)
    return mean, np.einsum("b,bhwc,bhwd->cd", share, x - mean, x - mean)


def near(memory, expected):
    for name, value in zip(("mean", "covariance"), expected, strict=True):
        scale = np.abs(value).max()
        np.testing.assert_allclose(memory[name] / scale, value / scale, atol=1e-6)


@pytest.mark.parametrize(("kind", "devices"), PLACES)
@pytest.mark.parametrize("size", [4, 8])
def test_mean_and_covariance_are_those_of_numpy(data, kind, devices, size):
    system = moments()
    options = QUIET._replace(batch_size=size)
    state = start(system, data)
    found = fit(system, state, KEY, data, options, engine_of(kind, devices))
    near(found.memory, truth(data.splits["train"]))
    test = make_batch(2, size=8, seed=9, defect=True)
    scores = jax.jit(scoring(system))(KEY, found, test)
    inside = test.mask[..., 0]
    assert scores.map[..., 0][inside].min() > scores.map[..., 0][~inside].max()


def test_a_long_sum_of_small_numbers_loses_nothing():
    """Plainly added, float32 stands still at 2**24 times what comes."""
    more, sums = {"x": jnp.float32(1e-8)}, nothing({"x": jnp.zeros(())})
    sums = plus(sums, {"x": jnp.float32(1.0)})
    added = jax.jit(
        lambda s: jax.lax.fori_loop(0, 10**6, lambda _, s: plus(s, more), s)
    )
    high, low = added(sums)
    assert float(np.float64(high["x"]) + low["x"]) == pytest.approx(1.01, rel=1e-7)
    plain = jax.lax.fori_loop(0, 10**6, lambda _, x: x + 1e-8, jnp.float32(1))
    assert float(plain) == 1.0, "or the test shows nothing"


def test_whole_numbers_are_counted_exactly(data):
    def emit(key, state, batch):
        real = (batch.weight > 0).astype(jnp.int32)
        assert batch.mask is None and batch.label is None
        return {"real": jnp.sum(real), "odd": jnp.sum(real * (batch.id % 2))}

    def finish(key, state, sums):
        return state._replace(memory=sums)

    system = System("s", (), (), None, (Sum("count", emit, finish),), None)
    found = fit(system, State(), KEY, data, QUIET, engine_of("pmap", 2)).memory
    assert found["real"] == 21 and found["odd"] == (data.splits["train"].id % 2).sum()


@pytest.mark.parametrize(("kind", "devices"), PLACES[:2])
def test_samples_are_weighted_or_left_out(data, kind, devices):
    factors = np.ones(21, np.float32)
    factors[[3, 9]], factors[5] = 0, 2.5
    table = {int(i): f for i, f in zip(data.splits["train"].id, factors, strict=True)}
    ids, values = np.array(list(table)), np.array(list(table.values()))

    def weigh(state, batch):
        assert "pixels" in batch.extras
        return jnp.sum((batch.id[:, None] == ids[None]) * values[None], axis=1)

    spoilt = data.splits["train"].rgb.copy()
    spoilt[[3, 9]] = np.nan  # of what is left out nothing is seen
    samples = MemoryDataset({"train": data.splits["train"]._replace(rgb=spoilt)})
    system = moments(weigh)
    state, where = start(system, data), engine_of(kind, devices)
    found = fit(system, state, KEY, samples, QUIET, where)
    near(found.memory, truth(data.splits["train"], factors))


def test_a_fit_goes_on_after_the_phase_that_was_done(data):
    system, kept = moments(), StopAfter(1)  # the end of the first phase
    state, log = start(system, data), MemoryLog()
    whole = fit(system, state, KEY, data, QUIET, engine_of())
    with pytest.raises(Preempted, match="stopped in moments.covariance"):
        fit(system, state, KEY, data, QUIET, engine_of(), kept)
    kept.number = None
    same(fit(system, state, KEY, data, QUIET, engine_of(), kept, log), whole)
    assert [line["phase"] for line in log.lines] == ["covariance"]


def test_a_sum_that_is_not_finite_is_an_error(data):
    samples = data.splits["train"]
    spoilt = np.where(samples.rgb == samples.rgb.max(), np.inf, samples.rgb)
    data = MemoryDataset({"train": samples._replace(rgb=np.float32(spoilt))})
    system = moments()
    with pytest.raises(ValueError, match="phase moments.mean: a sum is not finite"):
        fit(system, start(system, data), KEY, data, QUIET, engine_of())


def test_what_one_device_emits_is_added_as_it_is():
    system, batch = moments(), make_batch(4, size=8)
    assert system.phases[0].needs is None and ALONE.index() == 0
    state = system.init(KEY, batch)
    batch = batch._replace(extras=system.cache(state, batch))
    emitted = system.phases[0].emit(KEY, state, batch)
    high, low = plus(nothing(emitted), emitted)
    same(high, emitted)
    assert not any(np.any(x) for x in jax.tree.leaves(low))


def test_sums_that_do_not_fit_are_refused_before_they_are_added(data):
    system = moments()
    state, phase = start(system, data), system.phases[0].name
    options = QUIET._replace(device_memory_bytes=16, host_memory_bytes=2**30)
    words = rf"moments.{phase} adds up .* on the devices of 16 B"
    with pytest.raises(MemoryLimitError, match=words):
        fit(system, state, KEY, data, options, engine_of())
