"""A worker: takes trials until none is left, runs them, records what became of them."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optuna
from absl import logging
from ml_collections import ConfigDict
from optuna.trial import TrialState
from tqdm import tqdm

from ad3d_jax.experiment.status import Stopped
from ad3d_jax.experiment.study import ranking, records, storage, trials
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Task
from ad3d_jax.experiment.study.outcomes import run_trials
from ad3d_jax.experiment.study.records import BROKEN, REFUSED, STOPPED, Outcome
from ad3d_jax.experiment.study.slots import Rules
from ad3d_jax.experiment.study.space import Space
from ad3d_jax.experiment.study.storage import (
    Database,
    Heartbeat,
    StudyError,
    UnreachableError,
)
from ad3d_jax.experiment.study.strata import Kinds
from ad3d_jax.experiment.study.trials import Taken
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.workdir import names
from ad3d_jax.workdir.folder import Holder

FULL = 0.9  # of the disk, above which there is a warning
HOPELESS = 3  # trials that fail before any succeeds
SECONDS_BETWEEN_CLAIMS = 5.0  # while only others have something to do


class Job(NamedTuple):
    """A study as a worker sees it."""

    database: Database
    study: optuna.Study
    config_of: Callable[[Mapping[str, Any]], ConfigDict]  # of a trial, by its fields
    space: Space
    rules: Rules
    goal: Goal
    folder: Path
    keep_best: int = 3  # trials whose trained state is kept
    together: int = 1  # trials that are taken at a time
    devices: Sequence[jax.Device] | None = None  # that trials run on; None = all
    grounds: int = 1  # data of so many configurations are kept between trials
    hopeless: int = HOPELESS  # failures before any success, after which it ends


Run = Callable[[Sequence[Task], Goal, Grounds], list[Outcome]]


def work(job: Job, run: Run = run_trials) -> int:
    """Runs trials until the study has all of them; returns how many ended here.

    Args:
        job: the study.
        run: runs some trials and returns what became of each, in order.

    Raises:
        UnreachableError: the database cannot be reached for long.
        StudyError: the database is damaged, or the first trials all fail.
        DiskFullError: no space is left; the trials are taken up again later.
        Stopped: the process was asked to.
    """
    features = job.folder / Path(names.FEATURES).name
    grounds, ended = Grounds(Store(features, lasting=True), job.grounds), 0
    while True:
        claim = trials.claim(
            job.database, job.study, job.space, job.rules, job.together
        )
        if not claim.taken:
            if not claim.others:
                shutil.rmtree(features, ignore_errors=True)
                return ended
            time.sleep(min(SECONDS_BETWEEN_CLAIMS, job.database.pulse.interval))
            continue
        outcomes = _run(job, claim.taken, run, grounds)
        for taken, outcome in zip(claim.taken, outcomes, strict=True):
            kept = trials.finish(job.database, job.study, taken, outcome)
            ended += kept and outcome.cause is None
            _say(taken, outcome)
        tidy(job)
        warn_of_full_disk(job.folder)
        if any(outcome.cause == STOPPED for outcome in outcomes):
            raise Stopped("stopped between trials")
        _check_hope(job, outcomes)


def _run(job: Job, taken: list[Taken], run: Run, grounds: Grounds) -> list[Outcome]:
    """Returns what becomes of the taken trials; those known are not run again."""
    new = [each for each in taken if each.known is None]
    own = [each.trial.number for each in new]
    tasks = [_task(job, each, own) for each in new]
    for each in new:
        tqdm.write(f"trial {each.trial.number} begins: {each.fields}")
    done = iter([])
    if tasks:
        try:
            with Heartbeat(job.database, [each.trial._trial_id for each in new]):
                done = iter(run(tasks, job.goal, grounds))
        except UnreachableError:
            raise
        except BaseException as error:
            for each in new:
                outcome = Outcome(cause=STOPPED, reason=str(error))
                trials.finish(job.database, job.study, each, outcome)
            raise
    return [next(done) if t.known is None else t.known for t in taken]


def _task(job: Job, taken: Taken, own: Sequence[int]) -> Task:
    """Returns what is to be run; `own` are the numbers of all that this worker runs."""

    def report(percent: int, value: float, kinds: Kinds | None = None) -> bool:
        return trials.report(job.database, taken, percent, value, kinds)

    def has_ended(holder: Holder) -> bool:
        name = trials.name_of(holder.host, holder.pid)
        return not trials.lives(job.database, job.study, name, taken.name, own)

    config, folder = job.config_of(taken.fields), job.folder / names.TRIALS
    return Task(config, folder / taken.name, report, has_ended, job.devices)


def tidy(job: Job) -> None:
    """Removes the checkpoints of trials that have ended, but for the best ones."""

    def read() -> list[optuna.trial.FrozenTrial]:
        return job.study.get_trials(deepcopy=False)

    found = storage.attempt(job.database, read)
    digests = {
        t.number: records.digest(t.user_attrs.get(records.FIELDS)) for t in found
    }
    best = ranking.best_first(job.study, found)[: job.keep_best]
    over = (TrialState.COMPLETE, TrialState.PRUNED)
    in_use = {digests[t.number] for t in found if t.state not in over}
    for trial in found:
        name = digests[trial.number]
        place = job.folder / names.TRIALS / name
        if trial.state in over and name not in in_use and place.exists():
            kept = name in {digests[t.number] for t in best}
            unneeded = names.STEPS if kept else names.CHECKPOINTS
            for found_there in (place / unneeded, *place.glob(f"*/{unneeded}")):
                shutil.rmtree(found_there, ignore_errors=True)


def warn_of_full_disk(folder: Path) -> bool:
    """Warns, and returns True, where the disk of a folder is nearly full."""
    total, _, free = shutil.disk_usage(folder)
    full = (total - free) / total
    if full < FULL:
        return False
    logging.warning(
        "the disk of %s is %.0f %% full, %.1f GB are left: keep_best=N keeps fewer "
        "trained states",
        *(folder, 100 * full, free / 1e9),
    )
    return True


def _say(taken: Taken, outcome: Outcome) -> None:
    """Says what became of a trial."""
    if outcome.value is not None:
        words = f"gives {outcome.value:.4f}"
    elif outcome.pruned:
        words = "was pruned"
    else:
        words = f"failed ({outcome.cause}): {outcome.reason}"
    tqdm.write(f"trial {taken.trial.number} {words}")


def _check_hope(job: Job, outcomes: Sequence[Outcome]) -> None:
    """Raises StudyError where the first trials have all failed."""
    failed = [o for o in outcomes if o.cause in (REFUSED, BROKEN)]
    if not failed:
        return

    def read() -> list[TrialState]:
        return [t.state for t in job.study.get_trials(deepcopy=False)]

    states = storage.attempt(job.database, read)
    alive = any(s in (TrialState.COMPLETE, TrialState.PRUNED) for s in states)
    if not alive and states.count(TrialState.FAIL) >= job.hopeless:
        raise StudyError(
            f"the first {states.count(TrialState.FAIL)} trials failed, the last one: "
            f"{failed[-1].reason}"
        )
