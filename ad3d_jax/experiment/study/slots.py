"""Which slot of a study comes next, read off its trials.

A study of N trials has the slots 0 to N-1. A slot's parameters are suggested once; an
attempt that was lost, interrupted or broken is followed by another with the same ones.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from ad3d_jax.experiment.study.records import BROKEN, CAUSE, FIELDS, LOST, REFUSED, SLOT
from ad3d_jax.experiment.study.space import Space, grid_points


class Rules(NamedTuple):
    """How a study takes its trials."""

    trials: int  # slots
    sampler: str = "tpe"
    seed: int = 0
    retries: int = 2  # of a slot whose attempts are lost or break
    # Whether one more may begin after those there are; what has begun goes on.
    more: Callable[[Sequence[FrozenTrial]], bool] = lambda _: True


def due(
    trials: Sequence[FrozenTrial], space: Space, rules: Rules
) -> dict[str, Any] | None:
    """Returns the trial to be made next, None where every slot has its end or runs."""
    for slot, attempts in sorted(attempts_by_slot(trials).items()):
        failed = all(each.state == TrialState.FAIL for each in attempts)
        if failed and again(attempts, rules.retries):
            # One that died while it was suggested has a part of its parameters.
            whole = [each for each in attempts if FIELDS in each.user_attrs]
            if not whole:
                return _new(slot, space, rules)
            return {
                "params": whole[-1].params,
                "distributions": whole[-1].distributions,
                "user_attrs": {SLOT: slot},
            }
    return _new(next_slot(trials), space, rules) if rules.more(trials) else None


def _new(slot: int, space: Space, rules: Rules) -> dict[str, Any] | None:
    """Returns the first trial of a slot, None where the study has no such slot."""
    begun: dict[str, Any] = {"user_attrs": {SLOT: slot}}
    if rules.sampler == "grid":
        points = grid_points(space, rules.seed)
        if slot >= min(len(points), rules.trials):
            return None
        return begun | {"params": points[slot], "distributions": dict(space.grid)}
    if slot < min(len(space.first), rules.trials):
        _, params, distributions = space.first[slot]
        return begun | {"params": params, "distributions": distributions}
    return begun if slot < rules.trials else None


def next_slot(trials: Sequence[FrozenTrial]) -> int:
    """Returns the number of a slot that no trial has."""
    return (
        max((t.user_attrs[SLOT] for t in trials if SLOT in t.user_attrs), default=-1)
        + 1
    )


def attempts_by_slot(trials: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Returns the attempts of each slot, in order."""
    slots: dict[int, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda t: t.number):
        if SLOT in trial.user_attrs:
            slots.setdefault(trial.user_attrs[SLOT], []).append(trial)
    return slots


def again(attempts: Sequence[FrozenTrial], retries: int) -> bool:
    """Returns whether a slot whose last attempt failed is to be tried again.

    What was stopped goes on without being counted; what was refused, or gave no number,
    would be so again.
    """
    causes = [t.user_attrs.get(CAUSE, LOST) for t in attempts]
    faults = sum(cause in (LOST, BROKEN) for cause in causes)
    return REFUSED not in causes and faults <= retries
