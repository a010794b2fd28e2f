"""The part of a study's page that tells kinds of planted defects apart."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial

from ad3d_jax.experiment.study import strata
from ad3d_jax.experiment.study.ranking import mean_ranks
from ad3d_jax.experiment.study.records import FACTS, KINDS
from ad3d_jax.report.markup import gap, number, paragraph, section, table

TITLE = "Kinds of planted defects"


def kinds(study: optuna.Study, best: Sequence[FrozenTrial], shown: int) -> str:
    """Returns the values of the best trials, and the metrics of the first, by kind.

    Args:
        study: of the trials.
        best: the complete trials, best first.
        shown: how many of them.
    """
    ranks = mean_ranks(study, best)
    if not best or ranks is None:
        return section("kinds", TITLE, gap("No trial has values of kinds."))
    facts = study.user_attrs[FACTS]
    metric, weights = facts["metric"], facts["weights"]
    words = "A trial's value is the mean over kinds; trials are ordered by the mean of "
    words += "their ranks in each kind."
    if weights:
        told = ", ".join(f"{kind} {weight:g}" for kind, weight in weights.items())
        words += f" Weights, where not 1: {told}."
    names = list(best[0].user_attrs[KINDS])
    rows = [
        [str(trial.number), f"{rank:.2f}", number(trial.value)]
        + [number(_value(trial, kind, metric)) for kind in names]
        for trial, rank in zip(best[:shown], ranks, strict=False)
    ]
    titles = ["trial", "mean rank", "value", *names]
    parts = [table(titles, rows, numbers=range(1, len(titles)))]
    measured: Mapping = best[0].user_attrs[KINDS]
    metrics = list(measured[names[0]])
    rows = [
        [kind, *(number(measured[kind][name]) for name in metrics)] for kind in names
    ]
    of_best = paragraph(f"Trial {best[0].number}, the best one, metric by metric:")
    numbers = range(1, len(metrics) + 1)
    parts += [of_best, table(["kind", *metrics], rows, numbers=numbers)]
    return section("kinds", TITLE, paragraph(words), *parts)


def _value(trial: FrozenTrial, kind: str, metric: str) -> float:
    return strata.value({kind: trial.user_attrs[KINDS][kind]}, metric, {})
