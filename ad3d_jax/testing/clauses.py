"""The thirteen clauses of the contract, each a function of a trial.

The first line of a docstring is the clause; what fails raises `ContractError`.
"""

import tempfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import (
    ALONE,
    Gather,
    State,
    Sum,
    Train,
    sample_keys,
    scoring,
    with_cache,
    without_truth,
)
from ad3d_jax.devices import engines
from ad3d_jax.fit import gather, positions
from ad3d_jax.fit import sum as sums
from ad3d_jax.fit.cache import feeding
from ad3d_jax.fit.fit import check_fields
from ad3d_jax.fit.phases import reads_cache
from ad3d_jax.fit.step import batches_of_step, begin
from ad3d_jax.testing.comparison import (
    differ,
    finite,
    near,
    near_scores,
    require,
    same,
)
from ad3d_jax.testing.samples import (
    columns,
    degenerate,
    only,
    pad,
    side_by_side,
    take,
)
from ad3d_jax.testing.trial import ROWS, SAMPLES, Trial, engine, key
from ad3d_jax.workdir.checkpoint import Checkpointer

PLATFORMS = ("cpu", "cuda", "tpu")
DRAWS = 2  # keys that a comparison in float64 is made for
# Agreement in float64: where a gradient is nothing, as that of a bias before a
# normalisation, Adam makes a step of its rounding; 2e-7 found on two devices.
CLOSE = 1e-6
# Of scores of one place in pictures of two sizes, whose sums have other orders.
PARTS_CLOSE = 1e-4


def init_depends_on_key_and_shapes_alone(trial: Trial) -> None:
    """`init` depends on the key and on shapes alone; a State holds arrays alone."""
    batch = without_truth(trial.batch)
    strange = []

    def traced(key, batch):
        state = trial.system.init(key, batch)
        require(isinstance(state, State), "init to return a State", type(state))
        for leaf in jax.tree.leaves(state):
            if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
                strange.append(type(leaf).__name__)
        return state

    jax.eval_shape(traced, key(), batch)
    require(not strange, "a State of arrays alone", ", ".join(sorted(set(strange))))
    initial = trial.before(0)
    require(bool(jax.tree.leaves(initial)), "a State that holds arrays", "none")
    for name, value in initial.hyper.items():
        require(np.shape(value) == (), f"hyper.{name} of shape ()", np.shape(value))
    other = without_truth(trial.make_batch(ROWS, seed=5, defect=True))
    same(trial.init(key(), other), initial, "the initial state of other values")
    drawn = bool(jax.tree.leaves((initial.params, initial.frozen)))
    changed = differ(initial, trial.init(key(1), batch))
    require(
        changed == drawn,
        f"another key to give {'another' if drawn else 'the same'} initial state",
        "another" if changed else "the same",
    )


def losses_are_finite(trial: Trial) -> None:
    """The loss is finite for every row: also weight 0, all-zero xyz, nothing valid."""
    for index, phase, state in trial.phases(Train):
        each = batches_of_step(phase)
        bad = trial.read(phase, state, trial.batch)
        bad = take(degenerate(bad), np.repeat(range(ROWS), each))
        for batch in (bad, pad(take(bad, range(3 * each)), each)):
            # A sum that is finite has finite terms, and so have the gradients' norms.
            _, reports = trial.stepped(index, state, [batch], key())
            finite(reports[0].values, f"what phase {phase.name!r} logs")
            require(
                int(reports[0].bad) == 0,
                f"loss and gradients of phase {phase.name!r} to be finite",
                "a step that is not applied",
            )


def padding_changes_nothing(trial: Trial) -> None:
    """A padded row changes nothing."""
    for index, phase, state in trial.phases(Train):
        name, each = f"a step of phase {phase.name!r}", batches_of_step(phase)
        full = trial.read(phase, state, trial.rows(phase, ROWS))
        real = take(full, range((ROWS - 1) * each))
        padded, ones = (pad(real, each, garbage) for garbage in (np.nan, 1.0))
        found, expected = (
            trial.stepped(index, state, [x], key()) for x in (padded, ones)
        )
        same(found, expected, f"{name} whatever padded rows hold")
        nothing = pad(take(full, []), ROWS * each)
        carry, reports = trial.stepped(index, state, [nothing], key())
        start = jax.device_get(begin(phase, state))
        same(carry._replace(step=0), start._replace(step=0), f"{name} without rows")
        require(int(reports[0].bad) == 0, f"{name} without rows to pass", "a bad loss")
        for number in range(DRAWS):
            found, expected = (
                trial.step_in_float64(index, state, x, key(number))
                for x in (padded, real)
            )
            near(found, expected, CLOSE, f"{name} with a padded row and without")
    three = take(trial.batch, range(ROWS - 1))
    padded = pad(three, 1)
    for _, phase, state in trial.phases(Gather):
        runs = (
            trial.run(engine(), phase.source, batch, size)
            for batch, size in ((padded, ROWS), (three, ROWS - 1))
        )
        found, expected = (
            gather.emitted(run, phase, state, feeding(run, phase, state), key())
            for run in runs
        )
        near(found, expected, 1e-6, f"rows of phase {phase.name!r} with padding")
    for index, phase, state in trial.phases(Sum):
        found, expected = (
            sums.total(
                trial.run(engine(), phase.source, batch, size), index, state, key()
            )
            for batch, size in ((padded, ROWS), (three, ROWS - 1))
        )
        near(found, expected, 1e-6, f"sums of phase {phase.name!r} with padding")
    half = take(trial.batch, range(ROWS // 2))
    part = trial.scores(pad(half, ROWS - ROWS // 2))
    finite(part, "scores of a batch with padding")
    part, alone = take(part, range(ROWS // 2)), trial.half_scores(half)
    near_scores(part, alone, trial.rounding, "scores with padding and without")


def a_device_of_padding_changes_nothing(trial: Trial) -> None:
    """A device that holds nothing but padding changes nothing."""
    for index, phase, state in trial.phases(Train):
        full = trial.read(phase, state, trial.rows(phase, ROWS))
        padded = pad(full, len(full.weight))
        for number in range(DRAWS):
            found = trial.step_of_devices(index, state, padded, key(number), 2)
            expected = trial.step_in_float64(index, state, full, key(number))
            near(
                found, expected, CLOSE, f"a step of phase {phase.name!r} on two devices"
            )
    found = trial.scores_of_devices(pad(trial.batch, ROWS), 2)
    expected = trial.scores_of_devices(trial.batch, 1)
    near_scores(take(found, range(ROWS)), expected, CLOSE, "scores")


def score_is_per_sample(trial: Trial) -> None:
    """`score` is per sample: permuting or splitting a batch does so to its output."""
    whole, order = trial.scores(trial.batch), [2, 0, 3, 1]
    turned = trial.scores(take(trial.batch, order))
    near_scores(turned, take(whole, order), 1e-6, "scores of permuted rows")
    strangers = trial.make_batch(ROWS, seed=8, defect=True)
    mixed = jax.tree.map(
        lambda a, b: np.concatenate([a[:1], b[1:]]), trial.batch, strangers
    )
    found = trial.scores(mixed)
    near_scores(take(found, [0]), take(whole, [0]), 1e-6, "a row beside other rows")
    changed = differ(take(found, [1]), take(whole, [1]))
    require(changed, "another sample to have other scores", "the same scores")
    half = trial.half_scores(take(trial.batch, [2, 3]))
    near_scores(half, take(whole, [2, 3]), trial.rounding, "half of a batch")


def maps_have_the_size_of_the_input(trial: Trial) -> None:
    """`map` has the input's height and width, is float32 and finite everywhere."""

    def shaped(name, x, shape, dtype):
        require(
            (np.shape(x), x.dtype) == (shape, dtype),
            f"{name} {shape} {np.dtype(dtype)}",
            f"{np.shape(x)} {x.dtype}",
        )

    shape, size = trial.shape, trial.data.size("train")
    for batch in (trial.batch, degenerate(trial.batch)):
        scores = trial.scores(batch)
        shaped("map", scores.map, (*shape, 1), np.float32)
        shaped("image", scores.image, (ROWS,), np.float32)
        for name, part in scores.parts.items():
            channels = np.shape(part)[3:4]
            shaped(f"parts[{name!r}]", part, (*shape, *channels), np.float32)
            require(len(channels) == 1, f"parts[{name!r}] of four axes", part.ndim)
        finite(scores, "scores of whatever was measured")
        if scores.match is not None:
            shaped("match", scores.match, (ROWS, 5), np.int32)
            most = (*shape[1:], size, *shape[1:])
            inside = (scores.match >= 0).all() and (scores.match < most).all()
            require(bool(inside), f"match below {most}", scores.match.tolist())


def parts_are_those_of_the_whole(trial: Trial) -> None:
    """Where a system is local, a part of a picture is scored as in the whole of it."""
    local, state = trial.system.local, trial.fitted
    if local is None:
        return
    cells = jax.jit(
        lambda batch: local.cells(key(), state, with_cache(trial.system, state, batch))
    )
    batch = without_truth(trial.batch)
    found = jax.jit(local.whole, static_argnums=1)(cells(batch), trial.shape[1:])
    expected = trial.scores(batch)
    for name in ("map", "image"):
        one, other = (getattr(scores, name) for scores in (found, expected))
        near(one, other, trial.rounding, f"{name} of all cells, as of score,")
    # The part begins and ends within the picture; what is compared is out of reach of
    # either end.
    margin = -(-local.reach // local.step) * local.step
    first, core = local.step + margin, 2 * local.step
    samples = -(-(first + core + margin + local.step) // trial.shape[2])
    wide = side_by_side(without_truth(trial.make_batch(samples, seed=4)))
    part = columns(wide, local.step, first + core + margin)
    begin, count = margin // local.cell, core // local.cell
    found = cells(part)[:, :, begin : begin + count]
    begin = first // local.cell
    expected = cells(wide)[:, :, begin : begin + count]
    near(found, expected, PARTS_CLOSE, "scores of a part, beyond the reach of its ends")


def a_planted_defect_raises_the_scores(trial: Trial) -> None:
    """A planted defect raises the image score, and the map inside it."""
    good = trial.scores(trial.make_batch(ROWS, seed=21))
    batch = trial.make_batch(ROWS, seed=21, defect=True)
    bad = trial.scores(batch)
    for row in range(ROWS):
        require(
            bad.image[row] > good.image[row],
            f"an image score above {good.image[row]:.4g}, that of the good sample",
            f"{bad.image[row]:.4g}",
        )
        mask = batch.mask[row]
        inside = bad.map[row][mask].mean()
        outside, before = bad.map[row][~mask].mean(), good.map[row][mask].mean()
        require(
            inside > max(outside, before),
            f"a map above {outside:.4g} and {before:.4g} inside the defect, which it "
            "has outside and there in the good sample",
            f"{inside:.4g}",
        )


def same_key_and_data_give_the_same_bits(trial: Trial) -> None:
    """Same key and data, same bits; another key changes what is called stochastic."""

    def told(changed, part, what):
        expected = part in trial.stochastic
        require(
            changed == expected,
            f"another key {'to change' if expected else 'not to change'} {what}, as "
            f"`stochastic` is {sorted(trial.stochastic)}",
            "a change" if changed else "none",
        )

    for index, phase, state in trial.phases(Train):
        name = f"phase {phase.name!r}"
        batches = [trial.read(phase, state, trial.rows(phase, ROWS))] * 2
        one, again, other = (
            trial.stepped(index, state, batches, key(number)) for number in (0, 0, 9)
        )
        same(again, one, f"a second training of {name}")
        told(differ(one[0].params, other[0].params), "train", name)
    for kind, part in ((Gather, "gather"), (Sum, "sum")):
        for index, phase, state in trial.phases(kind):
            name = f"phase {phase.name!r}"
            one, again, other = (
                trial.after(index, state, trial.batch, ROWS, own=key(number))
                for number in (0, 0, 9)
            )
            same(again, one, f"a second run of {name}")
            told(differ(one, other), part, name)
    one, again, other = (
        trial.scores(trial.batch, key=key(number)) for number in (0, 0, 9)
    )
    same(again, one, "scores of a second call")
    told(differ(one, other), "score", "scores")


def nothing_is_traced_again(trial: Trial) -> None:
    """A second call, or a changed numeric hyperparameter, does not trace again."""

    def changed(state):
        hyper = {
            name: x * 0.5 if np.issubdtype(x.dtype, np.floating) else x
            for name, x in state.hyper.items()
        }
        return state._replace(hyper=hyper)

    def calls(compiled, run, state, what):
        run(state)
        before = compiled.traces
        for number, again in enumerate((state, changed(state))):
            run(again)
            case = ("a second call", "other hyperparameters")[number]
            traces = compiled.traces - before
            require(traces == 0, f"{case} of {what} not to be traced", f"{traces} more")

    for index, phase, state in trial.phases(Train):
        batches = [trial.read(phase, state, trial.rows(phase, ROWS))] * 2
        calls(
            trial.step(index, len(batches[0].weight)),
            lambda x, i=index, b=batches: trial.stepped(i, x, b, key()),
            state,
            f"the step of phase {phase.name!r}",
        )
    score = partial(trial.scores, trial.batch)
    calls(trial.score, score, trial.fitted, "score")


def chunks_do_not_matter(trial: Trial) -> None:
    """`absorb` and `finish` do not depend on chunking; ties go to the lowest row."""
    batch, others = trial.data.splits["train"], trial.make_batch(SAMPLES, seed=9)
    for index, phase, state in trial.phases(Gather | Sum):
        what = f"phase {phase.name!r} by other chunks"
        _agree(trial, index, state, batch, (SAMPLES, engine()), (2, engine()), what)
        whole, other = (
            trial.after(index, state, samples, SAMPLES).memory
            for samples in (batch, others)
        )
        changed = differ(other, whole)
        require(changed, f"other samples to change phase {phase.name!r}", "no change")


def devices_do_not_matter(trial: Trial) -> None:
    """`absorb` and `finish` do not depend on the device count."""
    batch, two = trial.data.splits["train"], engine("pmap", 2)
    for index, phase, state in trial.phases(Gather | Sum):
        what = f"phase {phase.name!r} on two devices"
        _agree(trial, index, state, batch, (SAMPLES, engine()), (ROWS, two), what)


def _agree(trial, index, state, batch, one, other, what) -> None:
    """Requires the same of a Gather or Sum phase by two pairs of (rows, engine).

    Of Gather its memory; of Sum what it adds up, and the scores where it is the last
    phase, since an inverse that `finish` may take magnifies the rounding of a sum.
    """
    phase, last = trial.system.phases[index], index + 1 == len(trial.system.phases)
    (expected, truth), (found, fitted) = (
        (
            sums.total(trial.run(where, phase.source, batch, size), index, state, key())
            if isinstance(phase, Sum)
            else None,
            trial.after(index, state, batch, size, where),
        )
        for size, where in (one, other)
    )
    if isinstance(phase, Gather):
        near(fitted.memory, truth.memory, trial.rounding, f"memory of {what}")
        return
    near(found, expected, 1e-6, f"sums of {what}")
    if last:
        scores = (trial.scores(trial.batch, x) for x in (fitted, truth))
        near_scores(*scores, trial.rounding, f"scores after {what}")


def a_saved_state_scores_the_same(trial: Trial) -> None:
    """Save, load, score: equal bits."""
    system, state = trial.system, trial.fitted
    end = positions.Position(state, len(system.phases))
    with tempfile.TemporaryDirectory() as folder:
        with Checkpointer(folder) as checkpointer:
            positions.save(system, end, checkpointer)
        found = positions.restore(system, trial.before(0), Checkpointer(folder))
    require(found.phase == end.phase, f"position {end.phase}", found.phase)
    same(found.state, state, "the state that was saved")
    expected = trial.scores(trial.batch)
    same(trial.scores(trial.batch, found.state), expected, "scores of a loaded state")
    for index, phase, state in trial.phases(Train):
        start = positions.Position(state, index, begin(phase, state))
        again = positions.unpack(system, trial.before(0), positions.pack(start))
        same(again.carry, start.carry, f"the saved carry of phase {phase.name!r}")


def needs_are_truthful(trial: Trial) -> None:
    """`needs_fit` and `needs_score` are truthful; what lacks is an early error."""
    system = trial.system
    *befores, fitted = (
        jax.tree.map(jnp.asarray, trial.before(index))
        for index in range(len(system.phases) + 1)
    )

    def fit_shapes(batch):
        for phase, state in zip(system.phases, befores, strict=True):
            seen = batch if phase.needs is None else only(phase.needs, trial.batch)
            if reads_cache(system, phase):
                seen = with_cache(system, state, seen)
            if isinstance(phase, Train):
                for update in phase.updates:
                    keys = sample_keys(key(), seen)
                    update.loss(keys, state.params, state, seen, ALONE)
            else:
                phase.emit(key(), state, seen)
        return batch.weight

    def score_shapes(batch):
        return scoring(system)(key(), fitted, batch)

    fault = _fault(
        lambda batch: system.init(key(), batch), only(system.needs_fit, trial.batch)
    )
    require(
        fault is None, f"needs_fit = {system.needs_fit} to be enough for init", fault
    )
    for kind, needs, run in (
        ("needs_fit", system.needs_fit, fit_shapes),
        ("needs_score", system.needs_score, score_shapes),
    ):
        enough = only(needs, trial.batch)
        check_fields(system.name, needs, enough, "run")
        fault = _fault(run, enough)
        require(fault is None, f"{kind} = {needs} to be enough", fault)
        for name in needs:
            lacking = only([x for x in needs if x != name], trial.batch)
            fault = _fault(run, lacking)
            require(fault is not None, f"{kind} without {name} to fail", "no use of it")
            try:
                check_fields(system.name, needs, lacking, "run")
            except ValueError as refusal:
                fault = str(refusal)
            require(
                f"needs {name}" in str(fault), f"a refusal that names {name}", fault
            )


def _fault(run, batch) -> str | None:
    """Returns what goes wrong with a batch, None where nothing does."""
    try:
        jax.eval_shape(run, batch)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def devices_agree(trial: Trial) -> None:
    """Strict promotion of ranks and dtypes; one, two and four devices agree."""
    batches = [trial.make_batch(8, seed=seed) for seed in (0, 1)]
    batches[1] = pad(take(batches[1], range(5)), 3)
    for index, phase, state in trial.phases(Train):
        each = batches_of_step(phase)
        for number, batch in enumerate(batches):
            batch = trial.read(phase, state, take(batch, np.repeat(range(8), each)))
            expected = trial.step_in_float64(index, state, batch, key(number))
            for devices in (2, 4):
                found = trial.step_of_devices(index, state, batch, key(number), devices)
                near(
                    found,
                    expected,
                    CLOSE,
                    f"a step of phase {phase.name!r} on {devices} devices",
                )
    expected = trial.scores_of_devices(batches[0], 1)
    for devices in (2, 4):
        for split in {(), trial.system.sharded}:
            found = trial.scores_of_devices(batches[0], devices, split)
            near_scores(found, expected, CLOSE, f"scores on {devices} devices")


def programs_lower_for_all_platforms(trial: Trial) -> None:
    """Each step and score lowers for cpu, cuda and tpu."""

    def lowers(compiled, arguments, what):
        try:
            compiled.trace(*arguments).lower(lowering_platforms=PLATFORMS)
        except (NotImplementedError, ValueError) as error:
            require(False, f"{what} to lower for {', '.join(PLATFORMS)}", error)

    for index, phase, state in trial.phases(Train):
        batch = trial.read(phase, state, trial.rows(phase, ROWS))
        arguments = trial.arguments(index, state, batch, key())
        step = trial.step(index, len(batch.weight))
        lowers(step, arguments, f"the step of phase {phase.name!r}")
    where, batch = engine(), without_truth(trial.batch)
    state = engines.place(where, trial.fitted)
    arguments = (engines.replicate(where, key()), state, engines.split(where, batch))
    lowers(trial.score, arguments, "score")
