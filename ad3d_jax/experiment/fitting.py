"""The fit of a run, and of the folds that calibrate it.

Of several processes all call this alike; the first writes.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging

from ad3d_jax import evaluate
from ad3d_jax.base import Array, Batch, Scores, State
from ad3d_jax.devices import compilation, processes
from ad3d_jax.experiment import calibrate as calibrations
from ad3d_jax.experiment import origin, pretrained
from ad3d_jax.experiment.opening import Run, fit_options, limits
from ad3d_jax.experiment.state import fitted_state, initial_state, key_of
from ad3d_jax.fit.fit import fit
from ad3d_jax.workdir import names
from ad3d_jax.workdir.calibration import write_calibration
from ad3d_jax.workdir.checkpoint import Checkpointer, has_tree, save_tree
from data_pipelines.calibration import FOLDS, NONE
from data_pipelines.reader import Reader
from data_pipelines.sources import CALIBRATION


def train(run: Run) -> State | None:
    """Runs the phases that are due, saves the fitted state, and calibrates it.

    Returns:
        The state after single phases, of which nothing is kept but what
        `config.save_weights` names; None after all, see `fitted_state`.
    """
    config, final = run.config, run.folder / names.FINAL
    whole, steps = run.phases is None, run.folder / names.STEPS
    if not whole:
        steps = steps.with_name("-".join((steps.name, *run.phases)))
    elif begun(run):
        calibrate(run)
        return None

    def after_phase(name: str, state: State) -> None:
        if processes.is_first():
            pretrained.save(config, run.system, name, state)

    state = _fit(run, run.dataset, key_of(config, "fit"), steps, after_phase)
    if not whole:
        return state
    if processes.is_first():
        save_tree(final, state)
    calibrate(run)
    return None


def begun(run: Run) -> bool:
    """Notes what a fit begins with, or goes on with; returns whether it has ended.

    Raises:
        WorkdirError: it began with something else.
    """
    ended = has_tree(run.folder / names.FINAL)
    if processes.is_first():
        origin.begin(run.folder, origin_of_run(run))
    if processes.word_of_first(str(ended)) == str(True):
        final = run.folder / names.FINAL
        logging.warning("%s is fitted already; remove it to fit anew", final)
        return True
    return False


def origin_of_run(run: Run) -> origin.Origin:
    """Returns what the state of a run comes from."""
    return origin.origin_of(
        run.config, run.data, run.system.phases, run.facts["weights"]
    )


def _fit(
    run: Run,
    dataset: Reader,
    key: Array,
    steps: Path,
    after_phase: Callable[[str, State], None] | None = None,
) -> State:
    """Returns the state of a fit, which goes on from the checkpoints in `steps`."""
    state = initial_state(run.config, run.system, run.first, run.brought)
    features = run.folder / names.FEATURES
    options = fit_options(run.config, run.phases)._replace(cache_folder=features)
    start = time.perf_counter()
    try:
        with Checkpointer(steps, keep=run.config.fit.keep) as checkpointer:
            state = fit(
                *(run.system, state, key, processes.shared(dataset), options),
                engine=run.engine,
                checkpointer=checkpointer,
                log=run.log,
                after_phase=after_phase,
            )
        if processes.is_first():
            shutil.rmtree(features, ignore_errors=True)
        return state
    finally:
        run.log.write(kind="event", event="fit", seconds=time.perf_counter() - start)


def calibrate(run: Run) -> None:
    """Scores the good samples that calibrate and keeps their scores with the state.

    With folds, each is scored by a fit without it, whose state is kept, too. Nothing is
    done twice.
    """
    path, split = run.folder / names.CALIBRATION, run.data.calibration
    done = processes.word_of_first(str(path.exists())) == str(True)
    if done or split.source == NONE:
        return
    size = run.config.eval.batch_size
    found = []
    if split.source == FOLDS:
        program = evaluate.score_program(run.system, run.engine)  # of all folds
        for number, numbers, dataset in calibrations.folds_of(run.data, run.dataset):
            _fit_fold(run, number, dataset)
            score = score_of(run, names.FOLD.format(number), program)
            dataset = processes.shared(dataset)
            found.append(calibrations.score_good(score, dataset, size, numbers))
    else:
        dataset = processes.shared(run.dataset)
        numbers = np.arange(dataset.size(CALIBRATION))
        score = score_of(run, names.FINAL, run.program)
        found.append(calibrations.score_good(score, dataset, size, numbers))
    if processes.is_first():
        write_calibration(path, calibrations.calibration_of(run.data, found))
    processes.wait()


def _fit_fold(run: Run, number: int, dataset: Reader) -> None:
    """Fits the system without a fold and saves its state, where it is not there."""
    final = run.folder / names.FOLD.format(number)
    if processes.word_of_first(str(has_tree(final))) == str(True):
        return
    steps = run.folder / names.STEPS
    key = jax.random.fold_in(key_of(run.config, "fit"), 1 + number)
    state = _fit(run, dataset, key, steps.with_name(f"{steps.name}-{final.name}"))
    if processes.is_first():
        save_tree(final, state)


def score_of(
    run: Run, place: str, program: compilation.Compiled
) -> Callable[[Batch], Scores]:
    """Returns the compiled score of the state that lies at `place` of the workdir."""
    state = fitted_state(run.config, run.system, run.first, run.folder, place)
    return evaluate.compile_score(
        *(run.system, run.engine, key_of(run.config, "score"), state),
        *(limits(run.config, run.engine), program),
    )
