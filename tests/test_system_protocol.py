"""The thirteen clauses of the contract, each one test over the table of all systems."""

import functools

import jax
import numpy as np
import pytest
from protocol_trial import (
    KEY,
    ROWS,
    absorbed,
    degenerate,
    differ,
    engine,
    gathered,
    near,
    near_scores,
    same,
    same_steps,
    scored,
    trial_of,
    with_plain_descent,
)
from reference_systems import pad, take
from systems_table import TABLE

from ad3d_jax.base import (
    ALONE,
    Gather,
    State,
    Train,
    sample_keys,
    scoring,
    with_cache,
    without_truth,
)
from ad3d_jax.devices import compilation
from ad3d_jax.fit import positions
from ad3d_jax.fit.fit import check_fields
from ad3d_jax.fit.phases import reads_cache
from ad3d_jax.fit.step import begin, fixed_part, train_step
from ad3d_jax.workdir.checkpoint import Checkpointer

every_system = pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=row.name,
            # One process a row, since its clauses share a trial.
            marks=[pytest.mark.xdist_group(row.name), *[pytest.mark.slow] * row.slow],
        )
        for row in TABLE
    ],
)


@pytest.fixture
def trial(row):
    return trial_of(row)


@every_system
def test_01_init_depends_on_key_and_shapes_alone(trial):
    init = trial.system.init
    batch = without_truth(trial.batch)
    other = without_truth(trial.row.make_batch(ROWS, seed=5, defect=True))
    same(trial.initial, init(KEY, other))
    drawn = jax.tree.leaves((trial.initial.params, trial.initial.frozen))
    changed = differ(trial.initial, init(jax.random.key(12), batch))
    assert changed == bool(drawn)  # hand-made features are nobody's draw
    assert isinstance(trial.initial, State)
    leaves = jax.tree.leaves(trial.initial)
    assert leaves and all(isinstance(x, jax.Array | np.ndarray) for x in leaves)
    assert all(np.shape(x) == () for x in trial.initial.hyper.values())


@every_system
def test_02_the_loss_is_finite_for_every_row(trial):
    for index, phase, state in trial.phases(Train):
        bad = trial.read(phase, state, degenerate(trial.batch))
        for batch in (bad, pad(take(bad, [0, 1, 2]), 1)):
            # A sum that is finite has finite terms, and so have the gradients' norms.
            _, reports = trial.stepped(
                engine(), trial.step(index), phase, state, [batch]
            )
            assert int(reports[0].bad) == 0, phase.name
            for name, value in reports[0].values.items():
                assert np.isfinite(value), (phase.name, name)


@every_system
def test_03_padding_changes_nothing(trial):
    three = take(trial.batch, [0, 1, 2])
    nan, one = (pad(three, 1, garbage) for garbage in (np.nan, 1.0))
    for index, phase, state in trial.phases(Train):
        run = functools.partial(
            trial.stepped, engine(), trial.step(index), phase, state
        )
        same(run([nan]), run([one]))
        carry, reports = run([pad(take(trial.batch, []), ROWS)])
        expected = jax.device_get(begin(phase, state))
        same(carry._replace(step=0), expected._replace(step=0))
        assert reports[0].bad == 0

        plain = with_plain_descent(phase)
        compiled = compilation.compile_step(engine(), train_step(plain))

        def pair(key, plain=plain, compiled=compiled, state=state):
            run = functools.partial(
                trial.stepped, engine(), compiled, plain, state, key=key
            )
            return run([nan]), run([three])

        same_steps(pair, state)
    for index, _, state in trial.phases(Gather):
        rows = gathered(engine(), trial.system, index, state, nan, ROWS)
        near(rows, gathered(engine(), trial.system, index, state, three, 3), 1e-6)
    full = trial.scores(trial.batch)
    part = trial.scores(pad(three, 1))
    near_scores(take(part, [0, 1, 2]), take(full, [0, 1, 2]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(part))


@pytest.mark.slow
@every_system
def test_03_a_device_that_holds_only_padding_changes_nothing(trial):
    two = engine("pmap", 2)
    padded = pad(trial.batch, ROWS)
    for _, phase, state in trial.phases(Train):
        plain = with_plain_descent(phase)
        both = compilation.compile_step(two, train_step(plain))
        alone = compilation.compile_step(engine(), train_step(plain))

        def pair(key, plain=plain, both=both, alone=alone, state=state):
            found = trial.stepped(two, both, plain, state, [padded], key=key)
            return found, trial.stepped(
                engine(), alone, plain, state, [trial.batch], key=key
            )

        same_steps(pair, state)
    compiled = compilation.compile_map(two, scoring(trial.system))
    scores = scored(two, compiled, padded, trial.ready)
    expected = trial.scores(trial.batch)
    near_scores(take(scores, range(ROWS)), expected, trial.row.rounding)


@every_system
def test_04_score_is_per_sample(trial):
    whole = trial.scores(trial.batch)
    order = [2, 0, 3, 1]
    near_scores(trial.scores(take(trial.batch, order)), take(whole, order))
    # A row must not see its neighbours: replace them.
    strangers = trial.row.make_batch(ROWS, seed=8, defect=True)
    mixed = jax.tree.map(
        lambda a, b: np.concatenate([a[:1], b[1:]]), trial.batch, strangers
    )
    near_scores(take(trial.scores(mixed), [0]), take(whole, [0]))
    assert differ(take(trial.scores(mixed), [1]), take(whole, [1]))
    half = scored(
        engine(),
        compilation.compile_map(engine(), scoring(trial.system)),
        take(trial.batch, [2, 3]),
        trial.ready,
    )
    near_scores(half, take(whole, [2, 3]), trial.row.rounding)


@every_system
def test_05_maps_have_the_size_of_the_input_and_are_finite(trial):
    shape = trial.batch.rgb.shape[:3]
    for batch in (trial.batch, degenerate(trial.batch)):
        scores = trial.scores(batch)
        assert scores.map.shape == (*shape, 1) and scores.map.dtype == np.float32
        assert scores.image.shape == (ROWS,) and scores.image.dtype == np.float32
        for part in scores.parts.values():
            assert part.shape[:3] == shape and part.ndim == 4
            assert part.dtype == np.float32
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(scores))
        if scores.match is not None:
            assert scores.match.shape == (ROWS, 5) and scores.match.dtype == np.int32
            most = (*shape[1:], trial.data.size("train"), *shape[1:])
            assert (scores.match >= 0).all() and (scores.match < most).all()


@every_system
def test_06_a_planted_defect_raises_the_scores(trial):
    good = trial.scores(trial.row.make_batch(ROWS, seed=21), trial.fitted)
    batch = trial.row.make_batch(ROWS, seed=21, defect=True)
    bad = trial.scores(batch, trial.fitted)
    assert (bad.image > good.image).all()
    for row in range(ROWS):
        inside = bad.map[row][batch.mask[row]].mean()
        assert inside > bad.map[row][~batch.mask[row]].mean()
        assert inside > good.map[row][batch.mask[row]].mean()


@every_system
def test_07_same_key_and_data_same_bits(trial):
    other = jax.random.key(99)
    for index, phase, state in trial.phases(Train):
        run = functools.partial(
            trial.stepped,
            engine(),
            trial.step(index),
            phase,
            state,
            [trial.batch] * 2,
        )
        same(run(), run())
        changed = differ(run()[0].params, run(other)[0].params)
        assert changed == ("train" in trial.row.stochastic), "another key in training"
    for index, _, state in trial.phases(Gather):
        run = functools.partial(
            absorbed, engine(), trial.system, index, state, trial.batch, ROWS
        )
        one = run()
        same(one, run())
        changed = differ(one, run(other))
        assert changed == ("gather" in trial.row.stochastic), "another key in gather"
    same(trial.scores(trial.batch), trial.scores(trial.batch))
    changed = differ(trial.scores(trial.batch), trial.scores(trial.batch, key=other))
    assert changed == ("score" in trial.row.stochastic), "another key in scoring"


@every_system
def test_08_neither_a_second_call_nor_a_hyperparameter_traces_again(trial):
    for _, phase, state in trial.phases(Train):
        step = compilation.compile_step(engine(), train_step(phase))
        trial.stepped(engine(), step, phase, state, [trial.batch] * 2)
        hyper = {name: value * 0.5 for name, value in state.hyper.items()}
        changed = state._replace(hyper=hyper)
        trial.stepped(engine(), step, phase, changed, [trial.batch])
        assert step.traces == 1, phase.name
    score = compilation.compile_map(engine(), scoring(trial.system))
    hyper = {name: value * 0.5 for name, value in trial.ready.hyper.items()}
    for state in (trial.ready, trial.ready, trial.ready._replace(hyper=hyper)):
        scored(engine(), score, trial.batch, state)
    assert score.traces == 1


@every_system
def test_09_absorb_depends_on_neither_chunks_nor_devices(trial):
    batch = trial.data.splits["train"]
    for index, _, state in trial.phases(Gather):
        first, *others = [
            absorbed(where, trial.system, index, state, batch, size).memory
            for where, size in [(engine(), 6), (engine(), 2), (engine("pmap", 2), 4)]
        ]
        for memory in others:
            near(memory, first, 1e-6)
        # Reversed samples must be told apart, or the comparison above is blind.
        backwards = take(batch, range(5, -1, -1))
        other = absorbed(engine(), trial.system, index, state, backwards, 6)
        assert differ(other.memory, first)


@every_system
def test_10_a_saved_and_loaded_state_scores_the_same(trial, tmp_path):
    count = len(trial.system.phases)
    with Checkpointer(tmp_path) as checkpointer:
        positions.save(
            trial.system, positions.Position(trial.fitted, count), checkpointer
        )
    found = positions.restore(trial.system, trial.initial, Checkpointer(tmp_path))
    assert found.phase == count
    same(found.state, trial.fitted)
    expected = trial.scores(trial.batch, trial.fitted)
    same(trial.scores(trial.batch, found.state), expected)
    for _, phase, state in trial.phases(Train):
        carry = begin(phase, state)
        position = positions.Position(state, trial.system.phases.index(phase), carry)
        packed = positions.pack(position)
        again = positions.unpack(trial.system, trial.initial, packed)
        same(again.carry, carry)


@every_system
def test_11_needs_are_truthful(trial):
    system = trial.system

    def only(needs, batch):
        book = ("weight", "id", "category")
        extras = {n: x for n, x in batch.extras.items() if f"extras.{n}" in needs}
        empty = {n: None for n in batch._fields if n not in (*needs, *book)}
        return batch._replace(**{**empty, "extras": extras})

    def train_shapes(batch):
        state = trial.initial
        for phase in system.phases:
            seen = batch
            if phase.needs is not None:
                seen = only(phase.needs, batch)
            if reads_cache(system, phase):
                seen = with_cache(system, state, seen)
            keys = sample_keys(KEY, batch)
            if isinstance(phase, Train):
                for update in phase.updates:
                    update.loss(keys, state.params, state, seen, ALONE)
            else:
                phase.emit(KEY, state, seen)
        return batch.weight

    ready = trial.ready  # fitted here, not under the tracing below

    def score_shapes(batch):
        return scoring(system)(KEY, ready, batch)

    init = system.init(KEY, only(system.needs_fit, trial.batch))
    same(init, trial.initial)
    for needs, run in (
        (system.needs_fit, train_shapes),
        (system.needs_score, score_shapes),
    ):
        enough = only(needs, trial.batch)
        check_fields(system.name, needs, enough, "run")
        jax.eval_shape(run, enough)
        for name in needs:
            lacking = only([n for n in needs if n != name], trial.batch)
            with pytest.raises(ValueError, match=f"{system.name} needs {name}"):
                check_fields(system.name, needs, lacking, "run")
            with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
                jax.eval_shape(run, lacking)
                pytest.fail(f"{name} is declared as needed, but not used")


def five_steps_agree(trial, phase, state, batches):
    found = []
    for kind, devices in [("jit", 1), ("pmap", 2), ("pmap", 4)]:
        where = engine(kind, devices)
        compiled = compilation.compile_step(where, train_step(phase))
        _, reports = trial.stepped(where, compiled, phase, state, batches)
        # Adam turns the rounding of a tiny gradient into a step of full size, so
        # that single terms drift; the contract speaks of the loss.
        found.append(
            [
                {k: v for k, v in report.values.items() if k.startswith("loss")}
                for report in reports
            ]
        )
    for values in found[1:]:
        near(values, found[0], 1e-5)


def single_steps_agree(trial, phase, state, batches):
    plain = with_plain_descent(phase)
    places = [engine(kind, n) for kind, n in [("jit", 1), ("pmap", 2), ("pmap", 4)]]
    programs = [compilation.compile_step(at, train_step(plain)) for at in places]

    def pair(place, batch, key):
        return [
            trial.stepped(places[n], programs[n], plain, state, [batch], key=key)
            for n in (place, 0)
        ]

    for place in (1, 2):
        for batch in batches:
            same_steps(functools.partial(pair, place, batch), state)


@pytest.mark.slow
@every_system
def test_12_one_two_and_four_devices_agree(trial):
    batches = [trial.row.make_batch(8, seed=seed) for seed in range(5)]
    batches[2] = pad(take(batches[2], range(5)), 3)
    assert jax.config.jax_numpy_rank_promotion == "raise"
    for _, phase, state in trial.phases(Train):
        if trial.row.single_steps:
            single_steps_agree(trial, phase, state, batches)
        else:
            five_steps_agree(trial, phase, state, batches)
    expected = scored(
        engine(),
        compilation.compile_map(engine(), scoring(trial.system)),
        batches[0],
        trial.ready,
    )
    for devices in (2, 4):
        where = engine("pmap", devices)
        compiled = compilation.compile_map(where, scoring(trial.system))
        found = scored(where, compiled, batches[0], trial.ready)
        near_scores(found, expected, trial.row.rounding)
        if trial.system.sharded:
            split = trial.system.sharded
            found = scored(where, compiled, batches[0], trial.ready, split=split)
            near_scores(found, expected, trial.row.rounding)


@every_system
def test_13_steps_and_scores_lower_for_cpu_cuda_and_tpu(trial):
    platforms = ("cpu", "cuda", "tpu")

    def lowered(function, *arguments):
        # Random keys cross the border of an exported function as their data.
        data = jax.random.key_data(KEY)

        def with_key(data, *rest):
            return function(jax.random.wrap_key_data(data), *rest)

        shapes = jax.eval_shape(lambda *x: x, data, *arguments)
        return jax.export.export(jax.jit(with_key), platforms=platforms)(*shapes)

    for _, phase, state in trial.phases(Train):
        batch = trial.read(phase, state, trial.batch)
        step = train_step(phase)
        exported = lowered(
            lambda key, fixed, carry, batch, step=step: step(
                key, fixed, carry, batch, ALONE
            ),
            fixed_part(state),
            begin(phase, state),
            batch,
        )
        assert exported.platforms == platforms
    exported = lowered(scoring(trial.system), trial.ready, without_truth(trial.batch))
    assert exported.platforms == platforms


@every_system
def test_what_the_losses_train_on_can_be_seen(trial):
    if trial.system.synthesise is None:
        pytest.skip("trains on no anomalies")
    compiled = jax.jit(trial.system.synthesise)
    batch = jax.tree.map(jax.numpy.asarray, without_truth(trial.batch))
    keys = sample_keys(KEY, batch)
    images = compiled(keys, trial.initial, batch)
    mask = np.asarray(images["mask"])
    shape = trial.batch.rgb.shape[:3]
    assert mask.shape == (*shape, 1) and set(np.unique(mask)) <= {0.0, 1.0}
    kinds = {n.partition("_")[2] for n in images if n.startswith("clean_")}
    assert kinds and set(images) == {"mask"} | {
        f"{way}_{kind}" for way in ("clean", "altered") for kind in kinds
    }
    for name, image in images.items():
        assert image.shape[:3] == shape and image.dtype == np.float32, name
        assert np.isfinite(image).all(), name
    order = np.array([2, 0, 3, 1])
    turned = compiled(keys[order], trial.initial, take(batch, order))
    near(turned, take(images, order), 1e-5)
    for seed in range(40):
        drawn = compiled(sample_keys(jax.random.key(seed), batch), trial.initial, batch)
        if np.asarray(drawn["mask"]).any():
            break
    assert np.asarray(drawn["mask"]).any(), "no anomaly in forty draws"
    assert any(differ(drawn[f"altered_{k}"], drawn[f"clean_{k}"]) for k in kinds)
