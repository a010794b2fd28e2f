"""Runs trials and says what became of each: a value, pruned, or why it failed."""

import math
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import logging

from ad3d_jax.experiment import population
from ad3d_jax.experiment.study import objective, strata, together
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Judged, Task
from ad3d_jax.experiment.study.records import BROKEN, REFUSED, STOPPED, Outcome
from ad3d_jax.experiment.study.stages import Pruned
from ad3d_jax.experiment.study.storage import StudyError, UnreachableError
from ad3d_jax.fit.fit import Preempted
from ad3d_jax.workdir.disk import DiskFullError, writing


def run_trials(tasks: Sequence[Task], goal: Goal, grounds: Grounds) -> list[Outcome]:
    """Runs trials and returns what became of each; a stop ends those that follow.

    Those of one structure are trained in one program; one that comes twice is run once.

    Raises:
        DiskFullError: no space is left; nothing is wrong with the trials.
        UnreachableError, StudyError: the database fails; neither is with it.
    """
    groups: dict[tuple, list[int]] = {}
    folders: list[Path] = []
    for number, task in enumerate(tasks):
        # A twin comes after the group of the first, whose result it then finds.
        group = population.structure_of(task.config), folders.count(task.folder)
        groups.setdefault(group, []).append(number)
        folders.append(task.folder)
    outcomes: dict[int, Outcome] = {}
    stop = None
    for numbers in groups.values():
        some = [tasks[number] for number in numbers]
        found = [stop] * len(some) if stop else run_alike(some, goal, grounds)
        outcomes |= dict(zip(numbers, found, strict=True))
        stop = next((each for each in found if each.cause == STOPPED), None)
    return [outcomes[number] for number in range(len(tasks))]


def run_alike(tasks: Sequence[Task], goal: Goal, grounds: Grounds) -> list[Outcome]:
    """Runs trials of one structure, or goes on with them; returns what became of each.

    What breaks the training of several breaks all of them.

    Raises:
        DiskFullError, UnreachableError, StudyError: as `run_trials`.
    """

    def values() -> list[Judged | ValueError]:
        if len(tasks) == 1:
            return [objective.value_of(tasks[0], goal, grounds)]
        return together.values_of(tasks, goal, grounds)

    return outcomes_of(tasks, goal, values)


def outcomes_of(
    tasks: Sequence[Task], goal: Goal, run: Callable[[], list[Judged | ValueError]]
) -> list[Outcome]:
    """Returns what becomes of trials, all of which `run` runs.

    Raises:
        DiskFullError, UnreachableError, StudyError: as `run_trials`.
    """
    try:
        with writing(tasks[0].folder):
            values = run()
    except (DiskFullError, StudyError, UnreachableError):
        raise  # nothing is wrong with the trials
    except Exception as error:  # noqa: BLE001 (whatever breaks costs these trials)
        return [_failure(error)] * len(tasks)
    except KeyboardInterrupt as stop:
        return [Outcome(cause=STOPPED, reason=str(stop))] * len(tasks)
    return [_ended(judged, goal) for judged in values]


def _failure(error: Exception) -> Outcome:
    """Returns what became of a trial that ended with an error."""
    if isinstance(error, Pruned):
        return Outcome(pruned=True)
    if isinstance(error, Preempted):
        return Outcome(cause=STOPPED, reason=str(error))
    if isinstance(error, ValueError):
        return Outcome(cause=REFUSED, reason=str(error))
    logging.error("%s", "".join(traceback.format_exception(error)))
    return Outcome(cause=BROKEN, reason=f"{type(error).__name__}: {error}")


def _ended(judged: Judged | ValueError, goal: Goal) -> Outcome:
    """Returns what became of a trial that gave a value, or why it has none."""
    if isinstance(judged, ValueError):
        return Outcome(cause=REFUSED, reason=str(judged))
    if not math.isfinite(judged.value):
        kinds = strata.undefined(judged.kinds, goal.metric, goal.weights)
        words = f"{goal.metric} is not a number for {', '.join(kinds)}"
        return Outcome(cause=REFUSED, reason=words)
    return Outcome(judged.value, kinds=judged.kinds)
