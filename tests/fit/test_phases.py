"""Which phases run, with what parts of files, on how many rows, for how many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference_systems import bank, restorer
from test_fit import KEY, QUIET, MemoryLog, StopAfter, same, start

from ad3d_jax.base import Gather, State, System, Train, Update
from ad3d_jax.devices import engines
from ad3d_jax.fit.fit import Preempted, fit
from ad3d_jax.fit.phases import count_steps, due
from ad3d_jax.testing import MemoryDataset, make_batch, take

# --- Which ----------------------------------------------------------------------------


def test_a_part_that_was_loaded_stands_for_its_phase(data, engine, tmp_path):
    system = bank(steps=3)
    state, file, seen = start(system, data), tmp_path / "adapter.npz", []

    def after_phase(name, state):
        seen.append(name)
        if name == "adapt":
            assert not state.memory
            np.savez(file, **state.params)

    trained = fit(system, state, KEY, data, QUIET, engine, after_phase=after_phase)
    assert seen == ["adapt", "bank"]
    (row,) = system.pretrained
    other = start(system, data, seed=1)
    loaded = row.put(other, row.read(file, row.get(other)))
    log, seen[:] = MemoryLog(), []
    options = QUIET._replace(loaded=("adapter",))
    found = fit(
        system, loaded, KEY, data, options, engine, log=log, after_phase=after_phase
    )
    same(found, trained)
    assert seen == ["bank"] and due(system, options).phases == system.phases[1:]
    assert [line["phase"] for line in log.lines] == ["bank"]


def test_single_phases_run_by_their_names(data, engine):
    system = bank(steps=3)
    state = start(system, data)
    whole = fit(system, state, KEY, data, QUIET, engine)
    first = QUIET._replace(phases=("adapt",))
    adapted = fit(system, state, KEY, data, first, engine)
    same(adapted.params, whole.params)
    assert not adapted.memory
    # The other phase keeps the key that it has in a fit of both.
    second = QUIET._replace(phases=("bank",))
    same(fit(system, adapted, KEY, data, second, engine), whole)


def test_a_fit_goes_on_with_the_phases_that_were_left_out(data, engine):
    system, kept = bank(steps=3), StopAfter(None)
    state = start(system, data)
    fit(system, state, KEY, data, QUIET._replace(phases=("adapt",)), engine, kept)
    log = MemoryLog()
    found = fit(system, state, KEY, data, QUIET, engine, kept, log)
    same(found, fit(system, state, KEY, data, QUIET, engine))
    assert [line["phase"] for line in log.lines] == ["bank"]


def test_a_phase_is_reported_before_it_is_saved(data, engine):
    """Killed between both, the fit reports it again; a report is never lost."""
    system, kept = bank(steps=3), StopAfter(None)
    state, seen = start(system, data), []

    def killed(name, state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(system, state, KEY, data, QUIET, engine, kept, after_phase=killed)
    assert not kept.trees

    def after_phase(name, state):
        seen.append((name, len(kept.trees)))

    fit(system, state, KEY, data, QUIET, engine, kept, after_phase=after_phase)
    assert seen == [("adapt", 0), ("bank", 1)]


def no_phase(batch):
    raise AssertionError("read")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loaded": ("adaptor",)}, "no pretrained part 'adaptor'; it has: adapter"),
        ({"phases": ("adapt", "banc")}, "no phase 'banc'; it has: adapt, bank"),
        (
            {"phases": ("adapt",), "loaded": ("adapter",)},
            "bank.adapt is to run, but what it makes was loaded.*'adapter'",
        ),
    ],
)
def test_wrong_names_are_errors_before_any_data_is_read(engine, options, words):
    class Unread(MemoryDataset):
        ordered = endless = size = no_phase

    system = bank(steps=1)
    state = system.init(KEY, make_batch(2, size=8))
    with pytest.raises(ValueError, match=words):
        fit(system, state, KEY, Unread({}), QUIET._replace(**options), engine)


def test_phases_name_their_sources_and_none_is_the_test_split(data, engine):
    pixels = Gather(
        "ids",
        emit=lambda key, state, batch: batch.id,
        absorb=lambda key, state, rows: state._replace(memory={"ids": rows}),
        source="scenes",
    )
    system = System("s", (), (), None, (pixels,), None)
    scenes = MemoryDataset({"scenes": take(data.splits["train"], [4, 2, 5])})
    found = fit(system, State(), KEY, scenes, QUIET, engine)
    np.testing.assert_array_equal(found.memory["ids"], scenes.splits["scenes"].id)
    tested = system._replace(phases=(pixels._replace(source="test"),))
    both = MemoryDataset({**scenes.splits, "test": scenes.splits["scenes"]})
    with pytest.raises(ValueError, match="phase s.ids: the test split is no source"):
        fit(tested, State(), KEY, both, QUIET, engine)
    unknown = system._replace(phases=(pixels._replace(pretrained="x"),))
    with pytest.raises(ValueError, match="phase s.ids makes 'x'.*the rows are: none"):
        fit(unknown, State(), KEY, scenes, QUIET, engine)


# --- How many rows and steps ----------------------------------------------------------


def test_passes_over_the_data_are_counted_in_steps(data, engine):
    seen = []

    def optimizer(hyper, steps):
        seen.append(steps)
        return optax.sgd(0.1)

    def loss(keys, params, state, batch, across):
        return params["w"] * batch.weight, {}, {}

    def make(**length):
        phase = Train("t", (Update(loss, optimizer),), **{"steps": 0, **length})
        return System("s", (), (), None, (phase,), None)

    kept = StopAfter(4)
    state = State(params={"w": jnp.ones(())})
    # 3 passes over 6 samples in batches of 4.
    expected = fit(make(steps=5), state, KEY, data, QUIET, engine)
    seen.clear()
    options = QUIET._replace(checkpoint_every=4)
    with pytest.raises(Preempted, match="after step 5"):
        fit(make(epochs=3), state, KEY, data, options, engine, kept)
    kept.number = None
    found = fit(make(epochs=3), state, KEY, data, options, engine, kept)
    same(found, expected)
    assert set(seen) == {5} and sorted(kept.trees) == [4, 5, 6]


def means_seen(sizes, repeat=1, fresh=False, **length):
    """A system of a phase for each batch size; its params count what they see.

    "rows" are the rows of an update, summed up over updates.
    """

    def loss(keys, params, state, batch, across):
        rows = across.sum(jnp.sum(batch.weight))
        return -rows * params["rows"] * jnp.ones(len(batch.weight)), {}, {}

    update = Update(loss, lambda h, s: optax.sgd(1.0), repeat=repeat, fresh=fresh)
    phases = tuple(
        Train(f"of_{size}", (update,), **{"steps": 0, **length}, batch_size=size)
        for size in sizes
    )
    return System("s", (), (), None, phases, None)


def test_a_phase_has_a_batch_size_of_its_own(data, engine):
    state, log = State(params={"rows": jnp.zeros(())}), MemoryLog()
    system = means_seen((2, None), epochs=3)
    counted = count_steps(system, data, 4)
    assert [phase.steps for phase in counted.phases] == [9, 5]  # 18 rows by 2 and by 4
    options = QUIET._replace(log_every=1)
    found = fit(system, state, KEY, data, options, engine, log=log)
    assert float(found.params["rows"]) == 9 * 2 + 5 * 4
    steps = [line["step"] for line in log.lines if line["kind"] == "train"]
    assert steps == [*range(1, 10), *range(1, 6)]


def test_a_phase_resumes_with_its_own_batch_size(data, engine):
    system = restorer(steps=7)
    phase = system.phases[0]._replace(batch_size=2)
    system = system._replace(phases=(phase,))
    state = start(system, data)
    whole = fit(system, state, KEY, data, QUIET, engine)
    # Of a batch size of 2 for the whole fit the phase sees the same.
    plain = restorer(steps=7)
    two = QUIET._replace(batch_size=2)
    same(fit(plain, state, KEY, data, two, engine), whole)
    kept = StopAfter(3)
    options = QUIET._replace(checkpoint_every=3)
    with pytest.raises(Preempted):
        fit(system, state, KEY, data, options, engine, kept)
    kept.number = None
    same(fit(system, state, KEY, data, options, engine, kept), whole)


def test_devices_must_share_the_batch_of_each_phase(data):
    system = means_seen((2, None), steps=1)
    engine = engines.make_engine("pmap", jax.devices()[:4])
    state = State(params={"rows": jnp.zeros(())})
    with pytest.raises(ValueError, match="batch size 2 .* 4 devices"):
        fit(system, state, KEY, data, QUIET, engine)


def test_fresh_repetitions_pass_over_more_rows(data, engine):
    system = means_seen((None,), repeat=3, fresh=True, epochs=4)
    assert count_steps(system, data, 4).phases[0].steps == 2  # 24 rows by 3 x 4
    state = State(params={"rows": jnp.zeros(())})
    found = fit(system, state, KEY, data, QUIET, engine)
    assert float(found.params["rows"]) == 2 * 3 * 4
