"""Cheap rungs before a whole fit, and successive halving between them.

At a rung of share s a trial is fitted on that share of the training samples, on images
of that share of the pixels, and judged on that share of the planted samples of each
kind. Values at a rung are compared with values at the same rung alone.
"""

import math
import shutil
from collections.abc import Mapping, Sequence

import optuna
from absl import logging
from ml_collections import ConfigDict
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from ad3d_jax.experiment.config import changed
from ad3d_jax.experiment.study import objective, strata
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Judged, Task
from ad3d_jax.experiment.study.records import FIELDS, SLOT, digest, kinds_at
from ad3d_jax.experiment.study.stages import Pruned
from ad3d_jax.workdir import names

KEPT = 3  # one in so many trials goes on from a rung
STEP = 32  # pixels, of which the sides of smaller images are a multiple
RUNGS = "rungs"  # folder of a trial's fits at rungs


class Halving(BasePruner):
    """Lets the best third of the trials that reached a rung go on from there.

    They are ordered by their mean rank over kinds at the rung. It does not wait for
    others: a trial is held against those that came before (Li et al., "A System for
    Massively Parallel Hyperparameter Tuning", MLSys 2020).
    """

    def __init__(
        self, spared: int, metric: str, weights: Mapping[str, float], kept: int = KEPT
    ):
        """Takes how many first slots are never pruned, and how trials compare."""
        self._spared, self._metric, self._weights = spared, metric, weights
        self._kept = kept

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether a trial is not worth going on with, at its last step."""
        if trial.user_attrs[SLOT] < self._spared:
            return False
        name, found = kinds_at(trial.last_step), {}
        for each in (*study.get_trials(deepcopy=False), trial):
            if name in each.user_attrs:  # one of several attempts at the same
                found[digest(each.user_attrs[FIELDS])] = each.user_attrs[name]
        own = list(found).index(digest(trial.user_attrs[FIELDS]))
        ranks = strata.mean_ranks(list(found.values()), self._metric, self._weights)
        better = sum(rank < ranks[own] for rank in ranks)
        return better >= max(1, len(ranks) // self._kept)


def climb(
    task: Task, parts: Mapping[str, Task], goal: Goal, grounds: Grounds, rungs: Sequence
) -> Judged:
    """Judges a trial rung by rung, then whole; returns what it is worth.

    Args:
        task: of the trial, who hears of its values.
        parts: what is fitted: a task for each class, by its name.
        goal: how whole fits are judged.
        grounds: gives the data.
        rungs: shares, rising.

    Raises:
        Pruned: `task.report` said so.
        ValueError, Preempted: see `objective.value_of`.
    """
    for share in rungs:
        step = round(100 * share)
        own = goal._replace(share=share)
        found = {
            name: _at_rung(part, step, own, grounds) for name, part in parts.items()
        }
        judged = together(found, goal)
        if math.isfinite(judged.value) and task.report(
            step, judged.value, judged.kinds
        ):
            raise Pruned(f"pruned at {step} %")
    return together(
        {name: objective.value_of(part, goal, grounds) for name, part in parts.items()},
        goal,
    )


def _at_rung(task: Task, step: int, goal: Goal, grounds: Grounds) -> Judged:
    """Judges a task at a rung, `step` percent of the whole.

    Where a system refuses smaller images, they are as large as in the whole fit.
    """
    small, folder = smaller(task.config, step / 100), task.folder / RUNGS / str(step)
    try:
        judged = objective.value_of(
            task._replace(config=small, folder=folder), goal, grounds
        )
    except ValueError as error:
        if small == task.config:
            raise
        logging.warning("rung of %d %%: %s; images stay as large", step, error)
        folder = folder.with_name(f"{folder.name}-large")
        judged = objective.value_of(task._replace(folder=folder), goal, grounds)
    shutil.rmtree(folder / names.CHECKPOINTS, ignore_errors=True)  # figures are enough
    return judged


def smaller(config: ConfigDict, share: float) -> ConfigDict:
    """Returns a configuration whose images have a share of the pixels.

    Sides are multiples of STEP; images of STEP pixels and less stay as they are, and so
    do those whose size the recipe is told by parameters of its own.
    """
    size, own = config.data.image_size, config.data.recipe_parameters
    if not isinstance(size, int) or {"image_size", "resize_size"} & set(own):
        return config
    side = STEP * max(1, round(size * math.sqrt(share) / STEP))
    return changed(config, {"data.image_size": min(size, side)})


def together(found: Mapping[str, Judged], goal: Goal) -> Judged:
    """Returns what a trial of several classes is worth; each class counts alike.

    A kind of a class is "class/kind", so that mean ranks over kinds are means over
    classes where these have the same kinds.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    kinds = {
        f"{name}/{kind}": values
        for name, judged in found.items()
        for kind, values in judged.kinds.items()
    }
    return Judged(sum(judged.value for judged in found.values()) / len(found), kinds)
