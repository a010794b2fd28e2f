"""What a trial is worth: a fit, judged on good samples with planted defects.

The test set is never read. A trial's folder keeps its checkpoints, so that it goes on
where it was stopped, and its metrics, so that it is never judged twice.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from absl import logging
from ml_collections import ConfigDict

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import State
from ad3d_jax.devices import compilation, engines
from ad3d_jax.experiment import pretrained
from ad3d_jax.experiment.config import plain
from ad3d_jax.experiment.data import with_sources
from ad3d_jax.experiment.opening import fit_options, limits
from ad3d_jax.experiment.state import build_system, key_of
from ad3d_jax.experiment.study import frozen, stages, strata
from ad3d_jax.experiment.study.grounds import Ground, Grounds, part_of
from ad3d_jax.experiment.study.stages import Trial, Watch
from ad3d_jax.fit.phases import count_steps, due
from ad3d_jax.workdir import names
from ad3d_jax.workdir.checkpoint import save_tree
from ad3d_jax.workdir.folder import Holder, InUseError, open_workdir
from ad3d_jax.workdir.json_files import read_json, write_json
from ad3d_jax.workdir.log import Log
from data_pipelines import planted

# Fields in which the attempts of a trial may differ: none changes what it gives.
PLACES = (
    *("data.root", "data.cache", "data.reader", "eval.batch_size"),
    *("fit.engine", "fit.checkpoint_every", "fit.log_every", "fit.keep"),
    *("fit.tensorboard", "fit.device_memory_bytes", "fit.host_memory_bytes"),
)
SECONDS_BETWEEN_LOOKS = 2.0  # at a folder that another process holds


class Goal(NamedTuple):
    """How trials are judged; the same for all trials of a study."""

    metric: str = "mean"
    stages: tuple[int, ...] = (25, 50)  # percent, at which a trial may be pruned
    planting: planted.Settings = planted.Settings()
    weights: Mapping[str, float] = MappingProxyType({})  # of kinds; 1 where not given
    share: float = 1.0  # of the training samples and of the planted ones, that are used


class Judged(NamedTuple):
    """What a trial is worth, NaN where undefined, and of each kind what is kept."""

    value: float
    kinds: strata.Kinds


class Task(NamedTuple):
    """A trial to be run."""

    config: ConfigDict
    folder: Path
    # (percent, value, of each kind where known) -> whether to prune
    report: Callable[[int, float, strata.Kinds | None], bool]
    # Whether who holds the folder on another machine is known to have ended.
    has_ended: Callable[[Holder], bool] = lambda _: False
    devices: Sequence[jax.Device] | None = None  # that it runs on; None = all


def value_of(task: Task, goal: Goal, grounds: Grounds) -> Judged:
    """Fits and judges a trial.

    Raises:
        Pruned: `task.report` said so.
        ValueError: the configuration cannot be fitted, or the loss diverges.
        Preempted: the process was asked to stop; the fit goes on from there next time.
    """
    with opened(task) as log:
        if is_done(task):
            return value_at(task, goal)
        trial, ground = begin(task, goal, grounds, log)

        def judge(state: State) -> float:
            kinds = strata.measure(scored_by(trial, ground, state), ground.rows)
            return judged_by({"kinds": kinds}, goal).value

        watch = Watch(task.folder / names.STAGES, goal.stages, task.report)
        start = time.perf_counter()
        state = stages.fitted(trial, task.folder / names.STEPS, log, judge, watch)
        return conclude(task, goal, trial, ground, state, time.perf_counter() - start)


@contextlib.contextmanager
def opened(task: Task) -> Iterator[Log]:
    """Holds a trial's folder as soon as no other process does, and gives its log."""
    with _when_free(task), Log(task.folder / names.LOG) as log:
        yield log


def is_done(task: Task) -> bool:
    """Returns whether the trial was judged before."""
    return (task.folder / names.METRICS).exists()


def value_at(task: Task, goal: Goal) -> Judged:
    """Returns what a trial that is done is worth."""
    return judged_by(read_json(task.folder / names.METRICS), goal)


def begin(task: Task, goal: Goal, grounds: Grounds, log: Log) -> tuple[Trial, Ground]:
    """Returns what is fitted and what it is judged on, checked before any work.

    Raises:
        ValueError: the configuration cannot be fitted, or a weight is of no kind that
            is planted.
    """
    config = task.config
    system = build_system(config)
    brought = pretrained.bring(config, system).trees
    engine = engines.make_engine(config.fit.engine, task.devices)
    ground = part_of(grounds.open(config, system, goal.planting), goal.share)
    strata.check_weights(goal.weights, strata.kinds_in(ground.rows))
    dataset = with_sources(
        config, due(system, fit_options(config)).phases, ground.samples
    )
    first = next(dataset.ordered("train", config.data.batch_size, 0))
    evaluation.check_needs(system, first)
    log.write(kind="start", mode="trial", devices=describe_devices(engine))
    system = count_steps(system, dataset, config.data.batch_size)
    trial = Trial(config, system, dataset, first, brought, engine, grounds.store)
    return trial, ground


def conclude(
    task: Task,
    goal: Goal,
    trial: Trial,
    ground: Ground,
    state: State,
    seconds: float,
    program: compilation.Compiled | None = None,
) -> Judged:
    """Judges a fitted state, saves it and what it gives, and returns what it is worth.

    Args:
        task: whose folder it goes to.
        goal: how it is judged.
        trial: what was fitted.
        ground: what it is judged on.
        state: fitted.
        seconds: that the fit took.
        program: of `evaluate.score_program`, for many states of one system.
    """
    save_tree(task.folder / names.FINAL, state)
    metrics = metrics_of(trial, ground, state, program)
    facts = {
        "judged_on": planted.SPLIT,
        "seconds_fit": seconds,
        "devices": describe_devices(trial.engine),
        "seed": task.config.seed,
    }
    write_json(task.folder / names.METRICS, metrics | facts)
    return judged_by(metrics, goal)


def metrics_of(
    trial: Trial,
    ground: Ground,
    state: State,
    program: compilation.Compiled | None = None,
) -> dict[str, Any]:
    """Returns the metrics of a state on the planted split; undefined ones are None.

    Those at the top are of all defects at once, `kinds` has those of each kind.
    `program` as in `conclude`.
    """
    scored = scored_by(trial, ground, state, program)
    host_bytes = limits(trial.config, trial.engine).host_bytes
    whole = evaluation.measure(scored, ground.rows, host_bytes)
    return whole | {"kinds": strata.measure(scored, ground.rows)}


def scored_by(
    trial: Trial,
    ground: Ground,
    state: State,
    program: compilation.Compiled | None = None,
) -> evaluation.Scored:
    """Returns the scores that a state gives on the planted split."""
    config, engine = trial.config, trial.engine
    score = evaluation.compile_score(
        trial.system,
        engine,
        key_of(config, "score"),
        state,
        limits(config, engine),
        program,
    )
    size = config.eval.batch_size
    feed = frozen.feeding(trial, state, ground.planted, planted.SPLIT)
    return evaluation.score_split(
        score, ground.planted, size, planted.SPLIT, extend=feed
    )


def judged_by(metrics: Mapping[str, Any], goal: Goal) -> Judged:
    """Returns what a trial is worth by its metrics."""
    kept = dict.fromkeys((*strata.METRICS, *strata.parts_of(goal.metric)))
    kinds = {
        kind: {name: found[name] for name in kept}
        for kind, found in metrics["kinds"].items()
    }
    return Judged(strata.value(kinds, goal.metric, goal.weights), kinds)


def describe_devices(engine: engines.Engine) -> str:
    """Returns the devices of an engine, such as "2 x NVIDIA H100 (cuda:0, cuda:1)"."""
    devices = list(engine.mesh.devices.flat)
    names = ", ".join(f"{d.platform}:{d.id}" for d in devices)
    return f"{len(devices)} x {devices[0].device_kind} ({names})"


@contextlib.contextmanager
def _when_free(task: Task) -> Iterator[None]:
    """Holds a trial's folder as soon as no other process does.

    Another one may hold it that was slow to say that it lives, or that runs the same
    parameters under another number; when it ends, its result is there.
    """
    table = plain(task.config)
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(
                    open_workdir(task.folder, table, PLACES, task.has_ended)
                )
                break
            except InUseError as error:
                logging.log_every_n_seconds(logging.WARNING, "%s; waiting", 60, error)
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield
