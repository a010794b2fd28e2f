"""How long a study may take: a budget of time that stops new trials.

Time is read off the records, so that a study that was stopped goes on with what is left
of it, and all workers count alike.
"""

import datetime
import re
from collections.abc import Sequence
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from ad3d_jax.experiment.study.records import CAUSE, LOST
from ad3d_jax.experiment.study.storage import StudyError

TEXT = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
UNITS = (3600, 60, 1)  # seconds


def seconds_of(text: str) -> int:
    """Returns the seconds of a text such as 30m or 1h30m; StudyError for others."""
    found = TEXT.fullmatch(text.strip())
    parts = [int(part or 0) for part in found.groups()] if found else []
    total = sum(part * unit for part, unit in zip(parts, UNITS, strict=False))
    if not total:
        raise StudyError(
            f"budget: expected a time such as 30m or 1h30m, found {text!r}"
        )
    return total


class Budget(NamedTuple):
    """A time in which trials, and a final fit after them, are to be done."""

    seconds: float

    def allows(self, trials: Sequence[FrozenTrial]) -> bool:
        """Returns whether one more trial may begin, of those there are.

        What is left must suffice for a trial of mean length and for the final fit,
        which takes as long as the longest trial. The first trial may always begin.
        """
        return self.allows_at(trials, datetime.datetime.now())

    def allows_at(self, trials: Sequence[FrozenTrial], now: datetime.datetime) -> bool:
        """Returns as `allows`, at a time."""
        ended = [lasted(t) for t in trials if t.state.is_finished() and not _lost(t)]
        if not ended:
            return not trials or spent(trials, now) < self.seconds
        needed = sum(ended) / len(ended) + max(ended)
        return spent(trials, now) + needed <= self.seconds


def lasted(trial: FrozenTrial) -> float:
    """Returns the seconds from a trial's begin to its end."""
    return (trial.datetime_complete - trial.datetime_start).total_seconds()


def spent(trials: Sequence[FrozenTrial], now: datetime.datetime) -> float:
    """Returns the seconds in which at least one trial ran.

    Of a trial whose worker died it is not known how long it ran: it counts for nothing.
    """
    spans = [
        (t.datetime_start, t.datetime_complete if t.state.is_finished() else now)
        for t in trials
        if t.datetime_start is not None and not _lost(t)
    ]
    total, reached = datetime.timedelta(), None
    for start, end in sorted(spans):
        begin = start if reached is None else max(start, reached)
        total += max(end - begin, datetime.timedelta())
        reached = end if reached is None else max(end, reached)
    return total.total_seconds()


def _lost(trial: FrozenTrial) -> bool:
    failed = trial.state == TrialState.FAIL
    return failed and trial.user_attrs.get(CAUSE, LOST) is LOST
