"""What a trial is worth: a fit, judged on good samples with planted defects.

The test set is never read. A trial's folder keeps its checkpoints, so that it goes on
where it was stopped, and its metrics, so that it is never judged twice.
"""

import contextlib
import errno
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

from ad3d_jax import eval as evaluation
from ad3d_jax.base import State
from ad3d_jax.train import parallel, plan
from ad3d_jax.train.checkpoint import save_tree
from ad3d_jax.train.fit import Preempted, count_steps
from ad3d_jax.train.log import Log
from ad3d_jax.train.workdir import WorkdirError, open_workdir, write_json
from data_pipelines import planted
from data_pipelines.errors import DiskFullError
from experiments import main, session, weight_files
from experiments.study import stages
from experiments.study.grounds import Ground, Grounds
from experiments.study.stages import Pruned, Trial, Watch
from experiments.study.trials import BROKEN, REFUSED, STOPPED, Outcome

MEAN = ("i_auroc", "aupro_30")  # what the metric "mean" is the mean of
# Fields in which the attempts of a trial may differ: none changes what it gives.
PLACES = (
    *("data.root", "data.cache", "data.reader", "eval.batch_size"),
    *("fit.engine", "fit.checkpoint_every", "fit.log_every", "fit.keep"),
    *("fit.tensorboard", "fit.device_memory_bytes", "fit.host_memory_bytes"),
)
RESULT = "metrics.json"
SECONDS_BETWEEN_LOOKS = 2.0  # at a folder that another process holds


class Goal(NamedTuple):
    """How trials are judged; the same for all trials of a study."""

    metric: str = "mean"
    stages: tuple[int, ...] = (25, 50)  # percent, at which a trial may be pruned
    planting: planted.Settings = planted.Settings()


class Task(NamedTuple):
    """A trial to be run."""

    config: ConfigDict
    folder: Path
    report: Callable[[int, float], bool]  # (percent, value) -> whether to prune


def run_trials(tasks: Sequence[Task], goal: Goal, grounds: Grounds) -> list[Outcome]:
    """Runs trials and returns what became of each; a stop ends those that follow.

    Raises:
        DiskFullError: no space is left; nothing is wrong with the trial.
    """
    outcomes: list[Outcome] = []
    for task in tasks:
        stopped = outcomes and outcomes[-1].cause == STOPPED
        outcomes.append(outcomes[-1] if stopped else run_trial(task, goal, grounds))
    return outcomes


def run_trial(task: Task, goal: Goal, grounds: Grounds) -> Outcome:
    """Runs a trial, or goes on with it, and returns what became of it.

    Raises:
        DiskFullError: no space is left.
    """
    try:
        value = value_of(task, goal, grounds)
    except Pruned:
        return Outcome(pruned=True)
    except (Preempted, KeyboardInterrupt) as stop:
        return Outcome(cause=STOPPED, reason=str(stop))
    except Exception as error:  # noqa: BLE001 (whatever breaks costs one trial)
        if _disk_is_full(error):
            raise DiskFullError(f"{task.folder}: no space is left") from error
        if isinstance(error, ValueError):
            return Outcome(cause=REFUSED, reason=str(error))
        logging.error("%s", traceback.format_exc())
        return Outcome(cause=BROKEN, reason=f"{type(error).__name__}: {error}")
    if not math.isfinite(value):
        return Outcome(cause=REFUSED, reason=f"{goal.metric} is not a number")
    return Outcome(value)


def value_of(task: Task, goal: Goal, grounds: Grounds) -> float:
    """Returns the value of a trial, NaN where it is undefined.

    Raises:
        Pruned: `task.report` said so.
        ValueError: the configuration cannot be fitted, or the loss diverges.
        Preempted: the process was asked to stop; the fit goes on from there next time.
    """
    config, folder = task.config, task.folder
    system = session.build_system(config)
    weight_files.check(config)
    engine = parallel.make_engine(config.fit.engine)
    with _when_free(folder, config), Log(folder / "log.jsonl") as log:
        if (folder / RESULT).exists():
            return value_in(session.read_json(folder / RESULT), goal.metric)
        ground = grounds.open(config, system, goal.planting)
        dataset = main.open_dataset(config, system, ground.samples)
        first = next(dataset.ordered("train", config.data.batch_size, 0))
        evaluation.check_needs(system, first)
        devices = describe_devices(engine)
        log.write(kind="start", mode="trial", devices=devices)
        system = count_steps(system, dataset, config.data.batch_size)
        trial = Trial(config, system, dataset, first, engine)

        def judge(state: State) -> float:
            return value_in(metrics_of(trial, ground, state), goal.metric)

        watch = Watch(folder / stages.FILE, goal.stages, task.report)
        start = time.perf_counter()
        state = stages.fitted(trial, folder / "checkpoints", log, judge, watch)
        seconds = time.perf_counter() - start
        save_tree(folder / "checkpoints" / session.FINAL, state)
        metrics = metrics_of(trial, ground, state)
        facts = {"judged_on": planted.SPLIT, "seconds_fit": seconds, "devices": devices}
        write_json(folder / RESULT, metrics | facts | {"seed": config.seed})
        return value_in(metrics, goal.metric)


def metrics_of(trial: Trial, ground: Ground, state: State) -> dict[str, Any]:
    """Returns the metrics of a state on the planted split; undefined ones are None."""
    config, engine = trial.config, trial.engine
    limits = plan.measure(
        engine.mesh.devices.flat,
        config.fit.device_memory_bytes or None,
        config.fit.host_memory_bytes or None,
    )
    key = session.key_of(config, "score")
    score = evaluation.compile_score(trial.system, engine, key, state, limits)
    size = config.eval.batch_size
    scored = evaluation.score_split(score, ground.planted, size, planted.SPLIT)
    return evaluation.measure(scored, ground.rows)


def value_in(metrics: Mapping[str, Any], metric: str) -> float:
    """Returns the value of a metric, NaN where it, or a part of it, is undefined."""
    parts = [metrics[name] for name in (MEAN if metric == "mean" else (metric,))]
    if any(part is None for part in parts):
        return math.nan
    return math.fsum(parts) / len(parts)


def describe_devices(engine: parallel.Engine) -> str:
    """Returns the devices of an engine, such as "2 x NVIDIA H100 (cuda:0, cuda:1)"."""
    devices = list(engine.mesh.devices.flat)
    names = ", ".join(f"{d.platform}:{d.id}" for d in devices)
    return f"{len(devices)} x {devices[0].device_kind} ({names})"


@contextlib.contextmanager
def _when_free(folder: Path, config: ConfigDict) -> Iterator[None]:
    """Holds a trial's folder as soon as no other process does.

    Another one may hold it that was slow to say that it lives, or that runs the same
    parameters under another number; when it ends, its result is there.
    """
    table = session.plain(config)
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(open_workdir(folder, table, PLACES))
                break
            except WorkdirError as error:
                if "is in use" not in str(error):
                    raise
                logging.warning("%s; waiting", error)
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield


def _disk_is_full(error: BaseException | None) -> bool:
    """Returns whether an error, or what caused it, is that no space is left."""
    while error is not None:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(error, DiskFullError) or "ENOSPC" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
