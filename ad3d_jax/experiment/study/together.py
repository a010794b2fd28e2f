"""Several trials of one structure, trained in one program."""

import contextlib
import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ad3d_jax import evaluate as evaluation
from ad3d_jax.experiment import population
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study import objective
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Judged, Task
from ad3d_jax.fit.fit import NonFiniteError
from ad3d_jax.workdir.log import Log


def values_of(
    tasks: Sequence[Task], goal: Goal, grounds: Grounds
) -> list[Judged | ValueError]:
    """Returns what each trial is worth, or why it has no value.

    That is what is wrong with its configuration, or that its loss diverged.

    A member of a population cannot leave it, so that no trial is pruned: they are
    judged at their ends alone.

    Args:
        tasks: of one structure, see `population.structure_of`.
        goal: how they are judged.
        grounds: gives the data.

    Raises:
        ValueError: they cannot be trained together.
        Preempted: the process was asked to stop; the same trials go on from there.
    """
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(objective.opened(task)) for task in tasks]
        done = [objective.is_done(task) for task in tasks]
        pairs = zip(tasks, logs, done, strict=True)
        due = [(task, log) for task, log, is_done in pairs if not is_done]
        found = iter(_fitted(due, goal, grounds) if due else [])
        return [
            objective.value_at(task, goal) if is_done else next(found)
            for task, is_done in zip(tasks, done, strict=True)
        ]


def _fitted(due: Sequence[tuple], goal: Goal, grounds: Grounds) -> list:
    """Returns as `values_of` for the (task, log) that have no value yet."""
    begun = [_begun(task, goal, grounds, log) for task, log in due]
    members = [n for n, each in enumerate(begun) if not isinstance(each, ValueError)]
    if not members:
        return begun
    trials = [begun[n][0] for n in members]
    parts = [
        population.Part(
            *(trial.config, trial.dataset, trial.first, trial.brought), log=due[n][1]
        )
        for n, trial in zip(members, trials, strict=True)
    ]
    system, engine = build_system(trials[0].config), trials[0].engine
    checkpoints = _checkpoints([due[n][0] for n in members])
    start = time.perf_counter()
    states = population.fitted(system, engine, parts, checkpoints, grounds.store)
    seconds = (time.perf_counter() - start) / len(members)  # each one's share
    program = evaluation.score_program(system, engine)
    values = list(begun)
    for n, state in zip(members, states, strict=True):
        values[n] = state
        if not isinstance(state, NonFiniteError):
            values[n] = objective.conclude(
                due[n][0], goal, *begun[n], state, seconds, program
            )
    shutil.rmtree(checkpoints, ignore_errors=True)
    return values


def _begun(task: Task, goal: Goal, grounds: Grounds, log: Log):
    """Returns as `objective.begin`, or the error of what is wrong with this trial."""
    try:
        return objective.begin(task, goal, grounds, log)
    except ValueError as error:
        return error


def _checkpoints(tasks: Sequence[Task]) -> Path:
    """Returns the folder of the training of exactly these trials."""
    names = hashlib.sha256(" ".join(task.folder.name for task in tasks).encode())
    return tasks[0].folder.parent / "together" / names.hexdigest()[:12]
