"""The order of a study's trials, best first."""

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from ad3d_jax.experiment.study import strata
from ad3d_jax.experiment.study.records import FACTS, KINDS


def best_first(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Returns those that are complete, the best first: that of the lowest mean rank.

    Of equal ones the higher value, then the earlier trial comes first. Where a trial
    has no values of kinds, as in other objectives, values alone decide.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    complete = [t for t in complete if np.isfinite(t.value)]
    ranks = mean_ranks(study, complete) or [0.0] * len(complete)
    order = sorted(
        zip(ranks, complete, strict=True),
        key=lambda x: (x[0], -x[1].value, x[1].number),
    )
    return [trial for _, trial in order]


def mean_ranks(
    study: optuna.Study, complete: Sequence[FrozenTrial]
) -> list[float] | None:
    """Returns the mean rank of each trial over kinds, None where any has no kinds."""
    facts = study.user_attrs.get(FACTS, {})
    kinds = [trial.user_attrs.get(KINDS) for trial in complete]
    if not kinds or not all(kinds):
        return None
    return strata.mean_ranks(kinds, facts["metric"], facts["weights"])
