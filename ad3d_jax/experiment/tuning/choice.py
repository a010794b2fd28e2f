"""The order of the settings that were tried, and the one that is chosen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from ad3d_jax.experiment.study import ranking, strata
from ad3d_jax.experiment.study.joint import CONFIGURATION
from ad3d_jax.experiment.study.records import FIELDS, KINDS, digest
from ad3d_jax.workdir import names

COSTS = "costs.json"  # of a trial: what a score takes


class Ranked(NamedTuple):
    """A setting that was fitted whole."""

    trial: str  # name of its folder
    configuration: str
    fields: dict[str, Any]  # of it, that the setting changes
    rank: float  # mean over kinds of planted defects, 1 = the best in all
    value: float  # mean over kinds of the metric
    kinds: strata.Kinds
    seconds: float | None = None  # of a score of one image; None = not measured
    bytes: int | None = None  # of the fitted state


def ranked(study: optuna.Study) -> list[Ranked]:
    """Returns what was fitted whole, the best first.

    That is the one of the lowest mean rank over kinds; of equal ones that of the higher
    value, then the earlier one.

    Latencies are not known here, see `ordered`.
    """
    every = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    once = {digest(trial.user_attrs[FIELDS]): trial for trial in reversed(every)}
    trials = ranking.best_first(study, list(once.values()))
    ranks = ranking.mean_ranks(study, trials) or []
    found = []
    for trial, rank in zip(trials, ranks, strict=True):
        fields = dict(trial.user_attrs[FIELDS])
        name, configuration = digest(fields), fields.pop(CONFIGURATION)
        own = name, configuration, fields, rank, trial.value, trial.user_attrs[KINDS]
        found.append(Ranked(*own))
    return found


def ordered(found: Sequence[Ranked]) -> list[Ranked]:
    """Returns settings in the declared order.

    By mean rank over kinds; of equal ones the higher value, then the lower latency,
    then the earlier trial comes first.
    """

    def key(each: Ranked) -> tuple:
        unknown = each.seconds is None
        return each.rank, -each.value, unknown, 0.0 if unknown else each.seconds

    return sorted(found, key=key)


def best_of_systems(found: Sequence[Ranked], count: int) -> list[Ranked]:
    """Returns the best setting of each configuration, `count` at most."""
    best: dict[str, Ranked] = {}
    for each in found:
        best.setdefault(each.configuration, each)
    return list(best.values())[:count]


def front(found: Sequence[Ranked], cost: str) -> list[Ranked]:
    """Returns those to which none is superior in value and in a cost at once.

    Args:
        found: settings.
        cost: "seconds" or "bytes"; settings of which it is unknown are left out.
    """
    known = [each for each in found if getattr(each, cost) is not None]
    best, kept = float("-inf"), []
    for each in sorted(known, key=lambda x: (getattr(x, cost), -x.value)):
        if each.value > best:
            best = each.value
            kept.append(each)
    return kept


def trials_folder(folder: Path) -> Path:
    """Returns where the trials of a study in a folder lie."""
    return folder / names.TRIALS
