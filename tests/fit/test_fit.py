"""Whole fits of the reference systems: resumption, checks, faults."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference_systems import MemoryCheckpointer, bank, critic, restorer

from ad3d_jax.base import Gather, Scores, State, System, Train, Update, scoring
from ad3d_jax.devices import engines
from ad3d_jax.fit import positions
from ad3d_jax.fit.fit import NonFiniteError, Options, Preempted, check_fields, fit
from ad3d_jax.testing import MemoryDataset, make_batch, take

KEY = jax.random.key(3)
QUIET = Options(batch_size=4, progress=False, log_every=2)


class MemoryLog:
    def __init__(self):
        self.lines = []

    def write(self, **values):
        self.lines.append(values)


def start(system, data, seed=1):
    return system.init(jax.random.key(seed), data.splits["train"])


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


class StopAfter(MemoryCheckpointer):
    """Sends this process a signal when checkpoint `number` is saved."""

    def __init__(self, number, sign=signal.SIGTERM):
        super().__init__()
        self.number, self.sign = number, sign

    def save(self, step, tree):
        super().save(step, tree)
        if step == self.number:
            os.kill(os.getpid(), self.sign)


@pytest.mark.parametrize("make", [restorer, critic, bank])
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_resumed_fit_has_the_same_bits(data, engine, make, sign):
    system = make(steps=7)
    state = start(system, data)
    options = QUIET._replace(checkpoint_every=3)
    whole = fit(system, state, KEY, data, options, engine)
    kept = StopAfter(3, sign)
    before = signal.getsignal(sign)
    with pytest.raises(Preempted, match=rf"{system.name}\.\w+ after step 4"):
        fit(system, state, KEY, data, options, engine, kept)
    assert signal.getsignal(sign) is before
    assert sorted(kept.trees) == [3, 4]
    kept.number = None
    resumed = fit(system, state, KEY, data, options, engine, kept)
    same(resumed, whole)
    assert 6 in kept.trees and 5 not in kept.trees, "it went on instead of anew"
    # A third run finds the fit complete and does nothing.
    trees = dict(kept.trees)
    same(fit(system, state, KEY, data, options, engine, kept), whole)
    assert sorted(trees) == sorted(kept.trees)
    done = positions.restore(system, state, kept)
    assert done.phase == len(system.phases)
    same(done.state, whole)


def test_a_fit_stopped_between_phases_does_not_double_rows(data, engine):
    system = bank(steps=2)
    state = start(system, data)
    whole = fit(system, state, KEY, data, QUIET, engine)
    kept = StopAfter(3)  # the end of the first phase: 2 steps and one
    with pytest.raises(Preempted, match="bank"):
        fit(system, state, KEY, data, QUIET, engine, kept)
    kept.number = None
    resumed = fit(system, state, KEY, data, QUIET, engine, kept)
    same(resumed, whole)
    assert resumed.memory["bank"].shape == (6 * 4, 8)
    np.testing.assert_array_equal(resumed.memory["id"], data.splits["train"].id)


def test_the_fit_leaves_its_arguments_alone(data):
    system = restorer(steps=2)
    state = start(system, data)
    copy = jax.tree.map(np.array, state)
    engine = engines.make_engine("pmap", jax.devices()[:2])
    first = fit(system, state, KEY, data, QUIET, engine)
    same(state, copy)
    same(fit(system, state, KEY, data, QUIET, engine), first)


def test_checkpoints_of_another_structure_are_refused(data, engine):
    system = restorer(steps=2)
    kept = MemoryCheckpointer()
    fit(system, start(system, data), KEY, data, QUIET, engine, kept)
    wider = restorer(steps=2, width=3)
    with pytest.raises(ValueError, match=r"params, decoder is .*\(2, 4\).*\(3, 4\)"):
        fit(wider, start(wider, data), KEY, data, QUIET, engine, kept)
    other = critic(steps=2)
    with pytest.raises(ValueError, match="critic/bias is missing.*encoder is unknown"):
        fit(other, start(other, data), KEY, data, QUIET, engine, kept)


def test_hyperparameters_come_from_the_caller_on_resumption(data, engine):
    system = restorer(steps=2)
    state = start(system, data)
    kept = MemoryCheckpointer()
    fit(system, state, KEY, data, QUIET, engine, kept)
    changed = state._replace(hyper={**state.hyper, "noise": jnp.array(0.5)})
    done = positions.restore(system, changed, kept)
    assert float(done.state.hyper["noise"]) == 0.5


def test_a_missing_field_is_an_error_before_any_tracing(engine):
    data = MemoryDataset({"train": make_batch(4, size=8)._replace(depth=None)})
    system = restorer(steps=2)

    def never(*_):
        raise AssertionError("traced")

    system = system._replace(phases=(Train("t", (Update(never, never),), 2),))
    with pytest.raises(ValueError, match="restorer needs depth to fit.*rgb, xyz"):
        fit(system, start(system, data), KEY, data, QUIET, engine)
    system = system._replace(needs_fit=("extras.normals",))
    with pytest.raises(ValueError, match="needs extras.normals to fit.*extras.depth_"):
        fit(system, start(system, data), KEY, data, QUIET, engine)
    check_fields("s", ("rgb", "extras.depth_normalised"), data.splits["train"], "fit")


def test_a_phase_may_need_other_fields_than_the_system(engine):
    system = restorer(steps=2)
    images = make_batch(4, size=8)._replace(depth=None)
    data = MemoryDataset({"train": make_batch(4, size=8), "images": images})
    first = system.phases[0]._replace(source="images", needs=("rgb",))
    checked = system._replace(phases=(first._replace(steps=0), *system.phases))
    fit(checked, start(system, data), KEY, data, QUIET, engine)
    checked = checked._replace(phases=(first._replace(needs=("rgb", "depth")),))
    with pytest.raises(ValueError, match="restorer needs depth to fit"):
        fit(checked, start(system, data), KEY, data, QUIET, engine)


def test_an_empty_split_is_a_clear_error(engine):
    samples = make_batch(4, size=8)
    data = MemoryDataset({"train": take(samples, [])})
    system = restorer(steps=2)
    with pytest.raises(ValueError, match="source train holds no samples.*restorer"):
        fit(system, system.init(KEY, samples), KEY, data, QUIET, engine)


def test_an_indivisible_batch_is_an_error_before_any_tracing(data):
    system = restorer(steps=2)._replace(phases=(Train("t", (), 2),))
    engine = engines.make_engine("pmap", jax.devices()[:4])
    with pytest.raises(ValueError, match="batch size 6 .* 4 devices"):
        fit(
            system, start(system, data), KEY, data, QUIET._replace(batch_size=6), engine
        )


def test_the_truth_reaches_neither_loss_nor_emit(data, engine):
    def loss(keys, params, state, batch, across):
        assert batch.mask is None and batch.label is None
        return params["w"] * batch.weight, {}, {}

    def emit(key, state, batch):
        assert batch.mask is None and batch.label is None
        return batch.id

    def absorb(key, state, rows):
        return state._replace(memory={"id": rows})

    phases = (
        Train("t", (Update(loss, lambda h, s: optax.sgd(0.1)),), 1),
        Gather("g", emit, absorb),
    )
    system = System("s", (), (), None, phases, None)
    state = fit(system, State(params={"w": jnp.ones(())}), KEY, data, QUIET, engine)
    np.testing.assert_array_equal(state.memory["id"], data.splits["train"].id)


def diverging(good_steps):
    """A system whose loss is not finite once `good_steps` steps were applied."""

    def loss(keys, params, state, batch, across):
        nan = jnp.where(params["w"] > good_steps - 0.5, jnp.nan, 0.0)
        return -params["w"] + nan * batch.weight, {}, {}

    phases = (Train("t", (Update(loss, lambda h, s: optax.sgd(1.0)),), 50),)

    def score(key, state, batch):
        return Scores(batch.depth, batch.weight)

    return System("diverging", (), (), None, phases, score)


@pytest.mark.parametrize("log_every", [1, 7, 100])
def test_a_diverging_fit_stops_and_leaves_finite_checkpoints(data, engine, log_every):
    kept = MemoryCheckpointer()
    options = QUIET._replace(checkpoint_every=5, patience=3, log_every=log_every)
    state = State(params={"w": jnp.zeros(())})
    with pytest.raises(NonFiniteError) as caught:
        fit(diverging(11), state, KEY, data, options, engine, kept)
    message = str(caught.value)
    assert "phase diverging.t" in message and "step 14" in message
    assert "checkpoint: number 10" in message
    batch = next(data.endless("train", 4, 0, 13))
    assert ", ".join(map(str, batch.id)) in message
    assert isinstance(caught.value, ValueError)
    assert sorted(kept.trees) == [5, 10]
    for tree in kept.trees.values():
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


def test_the_log_has_the_phases_and_the_losses(data, engine):
    system, log = restorer(steps=5), MemoryLog()
    fit(system, start(system, data), KEY, data, QUIET, engine, log=log)
    train = [line for line in log.lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [2, 4]
    assert {"phase", "loss", "peak", "images_per_second"} <= set(train[0])
    phases = [line for line in log.lines if line["kind"] == "phase"]
    assert [line["phase"] for line in phases] == ["train"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [restorer, critic, bank])
def test_engines_and_device_counts_agree(make):
    data = MemoryDataset({"train": make_batch(11, size=8)})
    test = make_batch(4, size=8, seed=9, defect=True)
    system = make(steps=5)
    state = start(system, data)
    found = []
    for kind, devices in [
        ("jit", 1),
        ("pmap", 1),
        ("pmap", 2),
        ("pmap", 4),
        ("shard_map", 2),
        ("shard_map", 4),
    ]:
        engine = engines.make_engine(kind, jax.devices()[:devices])
        fitted = fit(system, state, KEY, data, QUIET._replace(batch_size=8), engine)
        found.append(jax.jit(scoring(system))(KEY, fitted, test))
    for scores in found[1:]:
        np.testing.assert_allclose(scores.map, found[0].map, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scores.image, found[0].image, rtol=1e-5, atol=1e-6)
    same(found[3], found[5])  # pmap and shard_map on four devices
