"""A run in its workdir: opened and checked, fitted, evaluated.

Of several processes all call this alike; the first holds the workdir and writes.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Array, Batch, Scores, State, System, Train, Tree
from ad3d_jax.decision import decide
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.experiment import calibrate as calibrations
from ad3d_jax.experiment import origin, pretrained, results, surroundings
from ad3d_jax.experiment.config import plain
from ad3d_jax.experiment.data import (
    category_of,
    open_data,
    rows_of,
    with_sources,
)
from ad3d_jax.experiment.facts import facts
from ad3d_jax.experiment.pretrained import Brought
from ad3d_jax.experiment.state import (
    build_system,
    fitted_state,
    initial_state,
    key_of,
)
from ad3d_jax.fit.fit import Options, fit
from ad3d_jax.fit.monitor import NOT_APPLIED
from ad3d_jax.fit.phases import check_phases, count_steps, due
from ad3d_jax.workdir import names
from ad3d_jax.workdir.calibration import read_calibration, write_calibration
from ad3d_jax.workdir.checkpoint import Checkpointer, has_tree, save_tree
from ad3d_jax.workdir.folder import open_workdir
from ad3d_jax.workdir.json_files import read_json
from ad3d_jax.workdir.log import Log, read_log
from ad3d_jax.workdir.places import local
from data_pipelines.calibration import FOLDS, NONE
from data_pipelines.reader import Reader
from data_pipelines.sources import CALIBRATION, Data

MODES = ("fit", "eval", "fit_eval")


class Run(NamedTuple):
    """A run that holds its workdir, with its data open and its log begun."""

    config: ConfigDict
    system: System
    engine: engines.Engine
    folder: Path
    data: Data
    dataset: Reader  # samples, and what else the phases read
    first: Batch
    brought: Mapping[str, Tree]  # what files bring, by the parts' names
    phases: Sequence[str] | None  # names of those to run; None = all that are due
    facts: dict
    log: Log
    program: compilation.Compiled  # the score, see `evaluate.compile_score`


def run(
    config: ConfigDict,
    workdir: str | os.PathLike = "",
    mode: str = "fit_eval",
    allow: Sequence[str] = (),
    phases: Sequence[str] | None = None,
) -> dict:
    """Fits, evaluates or both; returns the metrics, {} where only fitted.

    Args:
        config: of the run.
        workdir: its folder; "" = the default.
        mode: one of MODES.
        allow: fields that may differ from the workdir's.
        phases: names of those to run, after which nothing is evaluated; None = all that
            no file stands for.

    Raises:
        ValueError: a mistake, named before any work.
        Preempted: the process was asked to stop; the same call goes on from there.
        DiskFullError: no space is left; likewise, when space is made.
    """
    if phases is not None:
        if "fit" not in mode:
            raise ValueError(f"phases: expected mode fit, found {mode}")
        mode = "fit"
    with opened(config, workdir, mode, allow, phases) as begun:
        if "fit" in mode:
            train(begun)
        return evaluate(begun) if "eval" in mode else {}


def workdir_of(config: ConfigDict, workdir: str | os.PathLike = "") -> Path:
    """Returns the folder of a run, by default runs/<system>-<category>."""
    if os.fspath(workdir):
        return local(workdir, "workdir")
    name = names.configuration_name(config.system)
    return Path("runs") / f"{name}-{category_of(config)}"


@contextlib.contextmanager
def opened(
    config: ConfigDict,
    workdir: str | os.PathLike,
    mode: str,
    allow: Sequence[str] = (),
    phases: Sequence[str] | None = None,
    read: Callable[[ConfigDict, System, Mapping | None], Data] = open_data,
    bring: Callable[[ConfigDict, System], Brought] = pretrained.bring,
) -> Iterator[Run]:
    """Gives a run, checked as far as it can be before any work.

    Args:
        config: of the run.
        workdir: its folder; "" = the default.
        mode: one of MODES, for the log.
        allow: fields that may differ from the workdir's.
        phases: names of those to run; None = all that no file stands for.
        read: gives the data, by what the recipe has learned, if it has.
        bring: gives what files bring.
    """
    system = build_system(config)
    options = fit_options(config, phases)
    check_phases(system, options)
    surroundings.check(config)
    folder = workdir_of(config, workdir)
    fitted = has_tree(folder / names.FINAL)
    calibrated = (folder / names.CALIBRATION).exists()
    to_fit = not fitted or (config.calibration.source == FOLDS and not calibrated)
    if "fit" in mode and (phases is not None or to_fit):
        brought = bring(config, system)
    else:  # what files brought was saved
        told = origin.read(folder).weights if fitted else {}
        if "fit" in mode:
            told = pretrained.seen(config, system, told)
        brought = Brought({}, told)
    engine = engines.make_engine(config.fit.engine)
    first_process = processes.is_first()
    told = json.dumps([plain(config), mode, list(allow)], sort_keys=True)
    processes.check_same("configuration", told)
    held = contextlib.nullcontext()
    if first_process:
        held = open_workdir(folder, plain(config), allow)
    with held:
        learned = None
        if "fit" not in mode:
            learned = origin.to_score_with(folder, config).recipe["params"]
        data = read(config, system, learned)
        calibrations.check(system, data)
        dataset = with_sources(config, due(system, options).phases, data.dataset)
        shared = processes.shared(dataset)
        first = next(shared.ordered("train", config.data.batch_size, 0))
        evaluation.check_needs(system, first)
        file = folder / names.LOG if first_process else os.devnull
        with Log(file, tensorboard=tensorboard(config, folder)) as log:
            steps = training_steps(system, options, dataset)
            told = facts(config, steps, brought.facts)
            log.write(kind="start", mode=mode, **told)
            yield Run(
                *(config, system, engine, folder, data, dataset, first),
                *(brought.trees, phases, told, log),
                evaluation.score_program(system, engine),
            )


def tensorboard(config: ConfigDict, folder: Path) -> Path | None:
    """Returns where TensorBoard's files go, None unless asked for."""
    wanted = config.fit.tensorboard and processes.is_first()
    return folder / names.TENSORBOARD if wanted else None


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
        program = evaluation.score_program(run.system, run.engine)  # of all folds
        for number, numbers, dataset in calibrations.folds_of(run.data, run.dataset):
            _fit_fold(run, number, dataset)
            score = _score(run, names.FOLD.format(number), program)
            dataset = processes.shared(dataset)
            found.append(calibrations.score_good(score, dataset, size, numbers))
    else:
        dataset = processes.shared(run.dataset)
        numbers = np.arange(dataset.size(CALIBRATION))
        score = _score(run, names.FINAL, run.program)
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


def _score(
    run: Run, place: str, program: compilation.Compiled
) -> Callable[[Batch], Scores]:
    """Returns the compiled score of a state of the workdir."""
    state = fitted_state(run.config, run.system, run.first, run.folder, place)
    return evaluation.compile_score(
        *(run.system, run.engine, key_of(run.config, "score"), state),
        *(limits(run.config, run.engine), program),
    )


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


def fit_options(config: ConfigDict, phases: Sequence[str] | None = None) -> Options:
    """Returns how the configuration wants a fit to run, of single phases or all."""
    return Options(
        batch_size=config.data.batch_size,
        seed=config.seed,
        max_grad_norm=config.fit.max_grad_norm,
        checkpoint_every=config.fit.checkpoint_every,
        log_every=config.fit.log_every,
        patience=config.fit.patience,
        loaded=pretrained.loaded(config),
        phases=None if phases is None else tuple(phases),
        progress=processes.is_first(),
        device_memory_bytes=config.fit.device_memory_bytes,
        host_memory_bytes=config.fit.host_memory_bytes,
    )


def limits(config: ConfigDict, engine: engines.Engine) -> memory.Limits:
    """Returns the memory that there is, as the configuration or the machine says."""
    fit_config = config.fit
    return memory.measure(
        engine.mesh.devices.flat,
        fit_config.device_memory_bytes,
        fit_config.host_memory_bytes,
    )


def training_steps(system: System, options: Options, dataset: Reader) -> int | None:
    """Returns the steps of all Train phases that are due, None where there is none."""
    phases = count_steps(due(system, options), dataset, options.batch_size).phases
    steps = [phase.steps for phase in phases if isinstance(phase, Train)]
    return sum(steps) if steps else None


def evaluate(run: Run) -> dict:
    """Scores the test split; writes maps, scores, metrics and the report.

    Of several processes all score; the first reads all samples, whose masks it needs,
    writes, and returns the metrics, the others {}.
    """
    config, engine, folder = run.config, run.engine, run.folder
    dataset = run.dataset if processes.is_first() else processes.shared(run.dataset)
    score = _score(run, names.FINAL, run.program)
    size = config.eval.batch_size
    calibration = read_calibration(folder / names.CALIBRATION)
    rows = rows_of(run.data.manifest, "test")
    shown = evaluation.Shown(rows, config.eval.images_per_defect)
    scored = evaluation.score_split(
        score, dataset, size, shown=shown if processes.is_first() else None
    )
    of_folds = evaluation.score_program(run.system, engine)
    others = [
        evaluation.score_split(_score(run, place, of_folds), dataset, size)
        for place in calibrations.fold_places(calibration)
    ]
    decision = None
    if calibration is not None:
        image, maps = (
            np.stack([getattr(each, name) for each in others or [scored]])
            for name in ("image", "maps")
        )
        decision = decide(calibration, image, maps, config.eval.alpha)
    rows = evaluation.scored_rows(scored, rows, decision)
    if processes.is_first():
        results.write_scored(folder, rows, scored)
    processes.wait()
    host_bytes = limits(config, engine).host_bytes  # all processes measure together
    if not processes.is_first():
        return {}
    facts = {
        "seconds_fit": seconds_fit(folder),
        "peak_memory_bytes": memory.peak_bytes(),
        **run.facts,
    }
    if (folder / names.ESTIMATE).exists():
        facts["estimate"] = read_json(folder / names.ESTIMATE)
    notes = {}
    if run.facts["steps"] is None:
        notes["steps"] = "nothing is trained by gradient steps"
    if count := steps_not_applied(folder):
        notes["steps"] = f"{count} were not finite and were not applied"
    if remarks := run.data.manifest["remarks"]:
        notes["data"] = "; ".join(remarks)
    point = results.point_of(
        *(rows, calibration, decision, config.eval.alpha),
        note=run.data.calibration.note,
    )
    samples = shown.samples(dataset, size)
    return results.write_measured(
        folder, rows, scored, samples, point, facts, notes, host_bytes
    )


def steps_not_applied(folder: Path) -> int:
    """Returns the number of training steps in the workdir that were not finite."""
    events = [e for e in read_log(folder / names.LOG) if e.get("event") == NOT_APPLIED]
    return len({(event["phase"], event["step"]) for event in events})  # one may recur


def seconds_fit(folder: Path) -> float | None:
    """Returns the wall time of all fits in the workdir but those that were killed."""
    log = read_log(folder / names.LOG)
    seconds = [line["seconds"] for line in log if line.get("event") == "fit"]
    return sum(seconds) if seconds else None
