"""Gather phases whose rows are chosen: slices, resumption, plans, faults."""

import os
import signal

import jax
import numpy as np
import pytest
from reference_systems import (
    MemoryCheckpointer,
    bank,
    banks,
    make_cloud,
    neighbours,
    points,
)

from ad3d_jax import evaluate
from ad3d_jax.base import Select
from ad3d_jax.devices import compilation, engines, memory
from ad3d_jax.fit import gather, positions
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.fit.fit import Options, Preempted, fit
from ad3d_jax.fit.positions import CHOICE_STEPS
from ad3d_jax.ops import coreset
from ad3d_jax.testing import MemoryDataset, make_batch
from ad3d_jax.workdir.checkpoint import Checkpointer
from ad3d_jax.workdir.scores import Row

KEY = jax.random.key(3)
# Every slice is saved.
QUIET = Options(batch_size=4, progress=False, save_seconds=0.0)
ENGINES = [("pmap", 1), ("pmap", 2), ("pmap", 4), ("shard_map", 4)]


class MemoryLog:
    def __init__(self):
        self.lines = []

    def write(self, **values):
        self.lines.append(values)

    def of_kind(self, kind):
        return [line for line in self.lines if line["kind"] == kind]


class StopAfter(MemoryCheckpointer):
    """Sends this process a signal when so many checkpoints were saved."""

    def __init__(self, count, sign=signal.SIGTERM):
        super().__init__()
        self.count, self.sign = count, sign

    def save(self, step, tree):
        super().save(step, tree)
        if len(self.trees) == self.count:
            os.kill(os.getpid(), self.sign)


@pytest.fixture(scope="module")
def data():
    # 7 samples of 9 patches: 63 rows, of which no number of devices is a divisor.
    return MemoryDataset({"train": make_batch(7, size=12)})


def shorten(patch):
    """Makes a slice one pass of at most four picks, and saves every one."""
    patch.setattr(coreset, "SLICE_BYTES", {"cpu": 1})
    patch.setattr(coreset, "PICKS", 4)
    patch.setattr(gather, "SAVING_SHARE", np.inf)


@pytest.fixture(autouse=True)
def _short_slices(monkeypatch):
    shorten(monkeypatch)


def engine_of(kind="jit", devices=1):
    return engines.make_engine(kind, jax.devices()[:devices])


def start(system, data):
    return system.init(jax.random.key(1), data.splits["train"])


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def whole(data):
    """The state of an undisturbed fit on one device."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        system = neighbours()
        return fit(system, start(system, data), KEY, data, QUIET, engine_of())


def farthest_first(rows, point, count):
    """Returns the picks of a literal greedy loop in float64; `point` is the first."""
    rows, picked = rows.astype(np.float64), [point]
    near = ((rows - rows[point]) ** 2).sum(1)
    while len(picked) < count:
        near[picked] = -1
        picked.append(int(near.argmax()))
        near = np.minimum(near, ((rows - rows[picked[-1]]) ** 2).sum(1))
    return picked


def test_the_rows_that_are_kept_are_those_of_a_literal_loop(data, whole):
    system = neighbours()
    everything = neighbours(fraction=1.0)
    state = start(system, data)
    full = fit(everything, state, KEY, data, QUIET, engine_of()).memory
    np.testing.assert_array_equal(full["origin"], np.arange(63))
    rows = full["bank"].rows + full["bank"].mean
    origin = whole.memory["origin"]
    # Which random point the choice begins with is not told.
    literal = [farthest_first(rows, point, 31) for point in range(63)]
    assert origin.tolist() in literal
    kept = whole.memory["bank"]
    np.testing.assert_allclose(kept.rows + kept.mean, rows[origin], atol=1e-6)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_choice_that_was_stopped_goes_on_with_the_same_bits(data, whole, sign):
    system, log = neighbours(), MemoryLog()
    state = start(system, data)
    kept = StopAfter(3, sign)
    with pytest.raises(Preempted, match=r"neighbours\.bank \(choice.* at \d+ of 31"):
        fit(system, state, KEY, data, QUIET, engine_of(), kept)
    assert len(kept.trees) == 4, "the slice after the signal is saved, too"
    assert max(kept.trees) < CHOICE_STEPS
    before = int(kept.latest()[1]["choice"]["rows"]["count"])
    assert 0 < before < 31
    kept.count = None
    seen = []

    def watched(data, carry, across):
        seen.append(True)
        return select.advance(data, carry, across)

    (phase,) = system.phases
    select = phase.select["rows"]
    phases = (phase._replace(select={"rows": select._replace(advance=watched)}),)
    resumed = fit(
        system._replace(phases=phases), state, KEY, data, QUIET, engine_of(), kept, log
    )
    same(resumed, whole)
    assert len(seen) == 1, "one trace for all slices"
    choices = [
        t["choice"]["rows"]["count"] for t in kept.trees.values() if "choice" in t
    ]
    assert sorted(choices) == choices and choices[4] > before, "it went on"
    assert log.of_kind("choice")[-1] == {
        "kind": "choice",
        "phase": "bank",
        "leaf": "rows",
        "done": 31,
        "total": 31,
    }
    # The end of the phase is newer than any slice of it.
    done = positions.restore(system, state, kept)
    assert done.phase == 1 and max(kept.trees) == CHOICE_STEPS + 1
    same(done.state, whole)


def test_a_choice_goes_on_from_every_slice(data, whole):
    system, kept = neighbours(), MemoryCheckpointer()
    state = start(system, data)
    same(fit(system, state, KEY, data, QUIET, engine_of(), kept), whole)
    slices = sorted(number for number, tree in kept.trees.items() if "choice" in tree)
    assert len(slices) == 8, "31 rows in slices of at most four"
    for number in slices[::3]:
        killed = MemoryCheckpointer()
        killed.trees = {n: t for n, t in kept.trees.items() if n <= number}
        same(fit(system, state, KEY, data, QUIET, engine_of(), killed), whole)
        again = sorted(n for n, tree in killed.trees.items() if "choice" in tree)
        assert again == slices, "the slices that were done are not done again"


@pytest.mark.parametrize(("kind", "devices"), ENGINES)
def test_the_choice_depends_on_no_devices(data, whole, kind, devices):
    system = neighbours()
    options = QUIET._replace(batch_size=8)
    where = engine_of(kind, devices)
    found = fit(system, start(system, data), KEY, data, options, where)
    np.testing.assert_array_equal(found.memory["origin"], whole.memory["origin"])
    np.testing.assert_allclose(
        found.memory["bank"].rows, whole.memory["bank"].rows, atol=1e-6
    )


class StoppingCheckpointer(Checkpointer):
    """Writes to disk, and sends this process a signal at the second save."""

    def save(self, step, tree):
        super().save(step, tree)
        if len(self.steps()) == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_choice_may_go_on_from_disk_on_other_devices(data, whole, tmp_path):
    system = neighbours()
    state = start(system, data)
    with StoppingCheckpointer(tmp_path, keep=9) as kept, pytest.raises(Preempted):
        fit(system, state, KEY, data, QUIET, engine_of("pmap", 2), kept)
    with Checkpointer(tmp_path) as kept:
        position = positions.restore(system, state, kept)
        assert position.phase == 0 and 0 < position.choice["rows"]["count"] < 31
        found = fit(system, state, KEY, data, QUIET, engine_of("pmap", 4), kept)
    np.testing.assert_array_equal(found.memory["origin"], whole.memory["origin"])


def test_choices_of_other_lengths_go_on_from_the_longest(data, monkeypatch):
    slices, one = [], gather._slice
    monkeypatch.setattr(gather, "_slice", lambda *x: slices.append(0) or one(*x))

    def fitted(fraction, store=None):
        system = neighbours(fraction)
        own = QUIET, engine_of()
        state = fit(system, start(system, data), KEY, data, *own, store=store)
        count = len(slices)
        slices.clear()
        return state, count

    counts, store = [], Store(lasting=True)
    for fraction in (0.5, 0.7, 0.3):  # 31, 44 and 18 rows, four of them a slice at most
        alone, whole = fitted(fraction)
        shared, part = fitted(fraction, store)
        same(shared, alone)
        counts.append((part, whole))
    assert counts[0][0] == counts[0][1] >= 31 / 4
    assert 0 < counts[1][0] < counts[1][1]
    assert counts[2][0] == 0 < counts[2][1]


def test_without_time_to_save_only_the_end_is_saved(data):
    system, kept = neighbours(), MemoryCheckpointer()
    options = QUIET._replace(save_seconds=1e6)
    fit(system, start(system, data), KEY, data, options, engine_of(), kept)
    assert list(kept.trees) == [CHOICE_STEPS + 1]


def test_the_checkpoint_of_another_choice_is_refused(data):
    system, kept = neighbours(), StopAfter(2)
    state = start(system, data)
    with pytest.raises(Preempted):
        fit(system, state, KEY, data, QUIET, engine_of(), kept)
    other = neighbours(fraction=0.25)
    with pytest.raises(ValueError, match=r"in the choice of rows, picked is .*31.*15"):
        fit(other, state, KEY, data, QUIET, engine_of(), kept)


def with_select(system, select):
    (phase,) = system.phases
    return system._replace(phases=(phase._replace(select={"rows": select}),))


def test_a_choice_that_stands_still_is_an_error_and_not_an_endless_loop(data):
    stuck = Select(
        prepare=lambda key, state, rows: ({"x": np.zeros(5)}, {"done": np.int32(0)}),
        advance=lambda data, carry, across: carry,
        done=lambda carry: (int(carry["done"]), 3),
        take=None,
    )
    system = with_select(neighbours(), stuck)
    with pytest.raises(ValueError, match="stands still at 0 of 3"):
        fit(system, start(system, data), KEY, data, QUIET, engine_of())


@pytest.mark.parametrize("says", [6, 9])
def test_a_split_of_another_size_than_it_says_is_an_error(says):
    class Liar(MemoryDataset):
        def size(self, split):
            return says

        def ordered(self, split, batch_size, start):
            return MemoryDataset(self.splits).ordered(split, batch_size, start)

    system, samples = bank(steps=1), make_batch(7, size=8)
    system = system._replace(phases=system.phases[1:])
    state = system.init(KEY, samples)
    with pytest.raises(ValueError, match=f"holds {says} samples, but gives 7"):
        fit(system, state, KEY, Liar({"train": samples}), QUIET, engine_of())


def test_the_plan_is_told_before_work_begins(data, capsys):
    system, log = neighbours(), MemoryLog()
    options = QUIET._replace(device_memory_bytes=2**20, host_memory_bytes=2**21)
    fit(system, start(system, data), KEY, data, options, engine_of(), log=log)
    said = capsys.readouterr().err
    for words in ("63 rows of 8 numbers, 31 kept", "1.0 MiB", "2.0 MiB on the host"):
        assert words in said
    (line,) = log.of_kind("plan")
    assert log.lines[0] is line
    assert (line["rows"], line["kept"], line["dimensions"]) == (63, 31, 8)
    assert line["bank_bytes"] == 4 * 31 * 8 and line["phase"] == "bank"
    assert line["device_limit_bytes"] == 2**20 and line["parts"] == 1


@pytest.mark.parametrize(
    ("limits", "place"),
    [
        ({"device_memory_bytes": 4000}, "on the devices: "),
        ({"device_memory_bytes": 10**6, "host_memory_bytes": 4000}, "on the host: "),
    ],
)
def test_a_bank_that_fits_nowhere_is_refused_before_any_compilation(
    data, monkeypatch, limits, place
):
    def never(*_, **__):
        raise AssertionError("compiled")

    monkeypatch.setattr(compilation, "compile_map", never)
    system, log = neighbours(), MemoryLog()
    options = QUIET._replace(**limits)
    with pytest.raises(memory.MemoryLimitError, match=place) as caught:
        fit(system, start(system, data), KEY, data, options, engine_of(), log=log)
    for figure in ("63 rows", "31 kept", "992 B", "there are", "rows compared"):
        assert figure in str(caught.value)
    assert log.of_kind("plan"), "the log has the figures of what was refused"


def test_rows_for_which_one_device_is_too_small_are_shared(data, whole, capsys):
    system = neighbours()
    state = start(system, data)
    planned = system.phases[0].plan(
        state, {"rows": jax.ShapeDtypeStruct((7, 9, 8), np.float32)}
    )
    room = planned.whole_bytes + planned.split_bytes // 2
    options = QUIET._replace(device_memory_bytes=room)
    with pytest.raises(memory.MemoryLimitError, match="on the devices"):
        fit(system, state, KEY, data, options, engine_of())
    found = fit(system, state, KEY, data, options, engine_of("pmap", 4))
    assert "split over 4 devices" in capsys.readouterr().err
    np.testing.assert_array_equal(found.memory["origin"], whole.memory["origin"])


def test_memory_that_runs_out_in_a_slice_is_a_named_error(data, monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(jax, "block_until_ready", exhausted)
    system = neighbours()
    with pytest.raises(memory.MemoryLimitError, match="ran out.*63 rows of 8 numbers"):
        fit(system, start(system, data), KEY, data, QUIET, engine_of())


# --- Several choices ------------------------------------------------------------------


def fitted_banks(data, kept=None, where=None, **options):
    system, log = banks(), MemoryLog()
    state = start(system, data)
    where = where or engine_of()
    options = QUIET._replace(**options)
    return fit(system, state, KEY, data, options, where, kept, log), log


@pytest.fixture(scope="module")
def two(data):
    """The state of an undisturbed fit of two banks."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        return fitted_banks(data)[0]


def test_two_banks_come_from_one_pass(data, two):
    seen = []

    class Counted(MemoryDataset):
        def ordered(self, split, batch_size, start):
            yield from super().ordered(split, batch_size, start)
            seen.append(split)

    found, log = fitted_banks(Counted(data.splits))
    same(found, two)
    assert seen == ["train"]
    samples = data.splits["train"]
    colours, depths = samples.rgb.reshape(-1, 3), 20 * samples.depth.reshape(-1, 1)
    for name, rows, count in (("colour", colours, 504), ("depth", depths, 252)):
        kept = found.memory[name]
        kept = kept.rows + kept.mean
        near = np.abs(kept[:, None] - rows[None]).max(-1)
        picks = np.unique(near.argmin(1))
        assert len(kept) == count == len(picks), "rows of its own, none of them twice"
        assert near.min(1).max() < 1e-5
    # What has no choice is absorbed whole.
    np.testing.assert_array_equal(found.memory["id"], samples.id)
    done = [line for line in log.of_kind("choice") if line["done"] == line["total"]]
    assert [(x["leaf"], x["total"]) for x in done] == [("colour", 504), ("depth", 252)]


@pytest.mark.parametrize(("kind", "devices"), ENGINES[1:2] + ENGINES[3:])
def test_two_choices_depend_on_no_devices(data, two, kind, devices):
    found, _ = fitted_banks(data, where=engine_of(kind, devices), batch_size=8)
    for name in ("colour", "depth"):
        np.testing.assert_allclose(
            found.memory[name].rows, two.memory[name].rows, atol=1e-6
        )


def test_a_choice_that_was_stopped_knows_which_it_was(data, two, monkeypatch):
    monkeypatch.setattr(coreset, "PICKS", 64)
    kept = MemoryCheckpointer()
    whole, _ = fitted_banks(data, kept)
    slices = {n: sorted(t["choice"]) for n, t in kept.trees.items() if "choice" in t}
    numbers = sorted(slices)
    assert numbers[-1] < CHOICE_STEPS
    middle = sum(names == ["colour"] for names in slices.values())
    assert [len(slices[n]) for n in numbers] == sorted(len(slices[n]) for n in numbers)
    # Within the first, where it ended, within the second.
    for place in (middle // 2, middle - 1, middle + 1):
        killed = MemoryCheckpointer()
        killed.trees = {n: kept.trees[n] for n in numbers[: place + 1]}
        begun = {n: x["count"] for n, x in killed.latest()[1]["choice"].items()}
        found, log = fitted_banks(data, killed)
        same(found, whole)
        done = [(line["leaf"], line["done"]) for line in log.of_kind("choice")]
        assert all(count > begun.get(leaf, 0) for leaf, count in done)
        again = sorted(n for n, tree in killed.trees.items() if "choice" in tree)
        assert again == numbers, "the slices that were done are not done again"


def test_a_choice_of_what_is_not_emitted_is_an_error_before_any_pass(data, monkeypatch):
    def never(*_, **__):
        raise AssertionError("compiled")

    monkeypatch.setattr(compilation, "compile_map", never)
    (phase,) = banks().phases
    chosen = {"colours": phase.select["colour"]}
    system = banks()._replace(phases=(phase._replace(select=chosen),))
    words = r"banks.banks chooses of 'colours', but emits \['colour', 'depth', 'id'\]"
    with pytest.raises(ValueError, match=words):
        fit(system, start(system, data), KEY, data, QUIET, engine_of())


# --- Clouds without rows and columns --------------------------------------------------


@pytest.mark.parametrize(("kind", "devices"), [("jit", 1), ("pmap", 2)])
def test_a_cloud_is_fitted_scored_and_measured(kind, devices):
    data = MemoryDataset({"train": make_cloud(5), "test": clouds()})
    system, where = points(), engine_of(kind, devices)
    state = fit(system, start(system, data), KEY, data, QUIET, where)
    train, test = data.splits["train"], data.splits["test"]
    assert state.memory["bank"].rows.shape == (5 * 54, 3), "measured points alone"
    score = evaluate.compile_score(system, where, KEY, state)
    scored = evaluate.score_split(score, data, 4)
    assert scored.maps.shape == (6, 60, 1)
    known = train.xyz[train.valid[..., 0]]
    away = np.linalg.norm(test.xyz[:, :, 0, None] - known[None, None], axis=-1).min(-1)
    expected = np.where(test.valid[..., 0, 0], away, 0)
    np.testing.assert_allclose(scored.maps[..., 0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scored.image, expected.sum(1) / 54, rtol=1e-4)
    samples = [
        Row("sheet", "bent", str(i), int(test.id[i]), int(test.label[i]))
        for i in range(6)
    ]
    metrics = evaluate.measure(scored, samples)
    assert metrics["i_auroc"] == 1 and metrics["p_auroc"] == 1
    assert metrics["aupro_30"] is None
    assert "unorganised cloud" in metrics["notes"]["aupro_30"]


def clouds():
    """Three sound and three bent clouds."""
    good, bad = make_cloud(3, seed=1), make_cloud(3, seed=2, defect=True)
    return jax.tree.map(lambda x, y: np.concatenate([x, y]), good, bad)
