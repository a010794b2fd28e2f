"""Looks again at a trial that was fitted: what its score takes, and what it finds."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ad3d_jax import evaluate as evaluation
from ad3d_jax.experiment.opening import limits
from ad3d_jax.experiment.state import fitted_state, key_of
from ad3d_jax.experiment.study import objective
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Task
from ad3d_jax.experiment.tuning.choice import COSTS
from ad3d_jax.experiment.tuning.estimate import estimate_of
from ad3d_jax.workdir import names
from ad3d_jax.workdir.checkpoint import has_tree
from ad3d_jax.workdir.json_files import read_json, write_json
from ad3d_jax.workdir.scores import Row
from data_pipelines import planted

TIMED = 5  # scores, of which the median counts
SHOWN = 2  # samples of each kind: that with the highest score and that with the lowest
FIELDS = ("rgb", "depth", "valid", "foreground", "mask")  # of a sample, that are shown


class Shown(NamedTuple):
    """A planted sample and what was found in it."""

    row: Row
    arrays: Mapping[str, np.ndarray]  # as `report.panels` draws them
    before: Mapping[str, np.ndarray]  # the good sample that it was


class Found(NamedTuple):
    """What a fitted trial finds in the planted samples of a class."""

    estimate: dict[str, Any]
    shown: list[Shown]


def measure_costs(task: Task, goal: Goal, grounds: Grounds) -> dict[str, Any]:
    """Returns what a score of one image takes, and how large the state is.

    One image goes to each device at a time; the median of TIMED scores counts, after
    one that compiles.

    Raises:
        ValueError, Preempted: see `objective.value_of`.
    """
    file = task.folder / COSTS
    if file.exists():  # measured by an earlier call
        return read_json(file, needs=("seconds", "bytes"))
    trial, ground, state, score = _opened(task, goal, grounds)
    size = trial.engine.mesh.devices.size
    batch = next(iter(ground.planted.ordered(planted.SPLIT, size, 0)))
    score(batch)
    seconds = []
    for _ in range(TIMED):
        start = time.perf_counter()
        score(batch)
        seconds.append((time.perf_counter() - start) / size)
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    costs = {"seconds": float(np.median(seconds)), "bytes": int(total)}
    write_json(file, costs)
    return costs


def look(task: Task, goal: Goal, grounds: Grounds) -> Found:
    """Scores the planted samples again, for the estimate and for images.

    Raises:
        ValueError, Preempted: see `objective.value_of`.
    """
    trial, ground, _, score = _opened(task, goal, grounds)
    size = trial.config.eval.batch_size
    scored = evaluation.score_split(score, ground.planted, size, planted.SPLIT)
    kinds = objective.value_at(task, goal).kinds
    estimate = estimate_of(scored, ground.rows, kinds, goal.weights)
    rows = evaluation.scored_rows(scored, ground.rows)
    chosen = [n for n in evaluation.chosen_rows(rows, SHOWN) if rows[n].label]
    hosts = {n: max(k for k in range(n) if not rows[k].label) for n in chosen}
    arrays = _arrays(ground.planted, {*chosen, *hosts.values()}, size)
    shown = [
        Shown(rows[n], {**arrays[n], "map": scored.maps[n]}, arrays[hosts[n]])
        for n in chosen
    ]
    return Found(estimate, shown)


def _opened(task: Task, goal: Goal, grounds: Grounds) -> tuple:
    """Returns trial, ground, state and compiled score; fits it where it is gone."""
    if not has_tree(task.folder / names.FINAL):
        (task.folder / names.METRICS).unlink(missing_ok=True)
    objective.value_of(task, goal, grounds)
    with objective.opened(task) as log:
        trial, ground = objective.begin(task, goal, grounds, log)
        state = fitted_state(task.config, trial.system, trial.first, task.folder)
    score = evaluation.compile_score(
        *(trial.system, trial.engine, key_of(task.config, "score"), state),
        limits(task.config, trial.engine),
    )
    return trial, ground, state, score


def _arrays(
    dataset: Any, numbers: Sequence[int] | set[int], batch_size: int
) -> dict[int, dict[str, np.ndarray]]:
    """Returns what is shown of planted samples, by their numbers."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for turn, batch in enumerate(dataset.ordered(planted.SPLIT, batch_size, 0)):
        first = turn * batch_size
        fields = {name: getattr(batch, name) for name in FIELDS}
        for n in numbers:
            if first <= n < first + batch_size:
                found[n] = {
                    name: np.array(x[n - first])
                    for name, x in fields.items()
                    if x is not None
                }
    return found
