"""Who runs what: slots of a study, taken one at a time, retried, never run twice.

A study of N trials has the slots 0 to N-1. A slot's parameters are suggested once; an
attempt that was lost, interrupted or broken is followed by another with the same
parameters. All of this is read off the records, and whoever takes a trial does so
alone, so that a worker may be killed at any moment.
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from absl import logging
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from ad3d_jax.experiment.study import storage
from ad3d_jax.experiment.study.records import (
    CAUSE,
    FACTS,
    FIELDS,
    KINDS,
    REASON,
    SLOT,
    STOPPED,
    WORKER,
    Outcome,
    digest,
    kinds_at,
)
from ad3d_jax.experiment.study.slots import Rules, due, next_slot
from ad3d_jax.experiment.study.space import Space, make_sampler, suggested
from ad3d_jax.experiment.study.storage import Database, StudyError
from ad3d_jax.experiment.study.strata import Kinds


class Taken(NamedTuple):
    """A trial that this worker must run."""

    trial: optuna.Trial
    slot: int
    fields: dict[str, Any]  # of the configuration
    known: Outcome | None = None  # where these parameters were run before

    @property
    def name(self) -> str:
        """Returns 12 hex digits that stand for the parameters."""
        return digest(self.fields)


class Claim(NamedTuple):
    """What there is to do for a worker."""

    taken: list[Taken]
    others: bool  # others run trials, which may yet be lost


def open_study(
    database: Database,
    name: str,
    facts: Mapping[str, Any],
    pruner: optuna.pruners.BasePruner | None = None,
) -> optuna.Study:
    """Makes a study, or goes on with one of the same facts.

    Args:
        database: where.
        name: of the study.
        facts: what all of its trials have in common, JSON.
        pruner: of its trials.

    Raises:
        StudyError: the study that exists differs; the facts are listed.
    """
    facts = json.loads(json.dumps(facts))

    def begin() -> optuna.Study:
        with storage.exclusive(database), storage.quiet():
            study = optuna.create_study(
                study_name=name,
                storage=database.storage,
                direction="maximize",
                load_if_exists=True,
                pruner=pruner,
            )
            if FACTS not in study.user_attrs:
                study.set_user_attr(FACTS, facts)
            return study

    study = storage.attempt(database, begin)
    before = study.user_attrs[FACTS]
    differ = [n for n in sorted({*before, *facts}) if before.get(n) != facts.get(n)]
    if differ:
        lines = [f"  {n}: {before.get(n)!r} -> {facts.get(n)!r}" for n in differ]
        raise StudyError(
            f"study {name!r} in {database.name} was begun otherwise:\n"
            + "\n".join(lines)
            + "\nchoose another name, or repeat what it was begun with"
        )
    return study


def claim(
    database: Database, study: optuna.Study, space: Space, rules: Rules, count: int = 1
) -> Claim:
    """Takes up to `count` trials, alone; first gives up those whose workers have died.

    Raises:
        UnreachableError: the database cannot be reached.
        StudyError: it is damaged.
    """
    begun: list[int] = []  # numbers of the trials of this call, over all tries

    def take() -> Claim:
        with storage.exclusive(database), storage.quiet():
            storage.give_up_silent(database, study)
            for each in _running(study):
                # Its worker died between taking it and saying so, or the database broke
                # off an earlier try.
                if WORKER not in each.user_attrs or each.number in begun:
                    _release(database, study, each)
            taken = []
            while len(taken) < count:
                one = _take(database, study, space, rules, begun)
                if one is None:
                    break
                taken.append(one)
            return Claim(taken, others=len(_running(study)) > len(taken))

    def take_or_fail() -> Claim:
        try:
            return take()
        except UpdateFinishedTrialError as error:
            # Others hold the lock since the database broke ours, and gave it up.
            raise StorageInternalError("the lock was lost") from error

    return storage.attempt(database, take_or_fail)


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _release(database: Database, study: optuna.Study, trial: FrozenTrial) -> None:
    """Ends a trial that was taken and never begun, which counts as no fault."""
    database.storage.set_trial_user_attr(trial._trial_id, CAUSE, STOPPED)
    study.tell(trial.number, state=TrialState.FAIL)


def _take(
    database: Database,
    study: optuna.Study,
    space: Space,
    rules: Rules,
    begun: list[int],
) -> Taken | None:
    """Returns a trial that waits, one to be tried again or a new one, None if done.

    Its number is added to `begun` before anything else can fail.
    """
    trials = study.get_trials(deepcopy=False)
    waiting = [t for t in trials if t.state == TrialState.WAITING]
    if waiting:  # of a worker that died at this very place, or of Optuna's dashboard
        slot = waiting[0].user_attrs.get(SLOT, next_slot(trials))
    else:
        new = due(trials, space, rules)
        if new is None:
            return None
        slot = new["user_attrs"][SLOT]
        study.add_trial(create_trial(state=TrialState.WAITING, **new))
    study.sampler = make_sampler(rules.sampler, rules.seed, slot)
    trial = study.ask()
    begun.append(trial.number)
    first = slot < len(space.first)
    fields = dict(space.first[slot].fields) if first else suggested(space, trial)
    trial.set_user_attr(SLOT, slot)
    trial.set_user_attr(FIELDS, fields)
    database.storage.record_heartbeat(trial._trial_id)
    trial.set_user_attr(WORKER, name_of(socket.gethostname(), os.getpid()))
    twins = (
        Outcome(each.value, kinds=each.user_attrs.get(KINDS))
        for each in trials
        if each.state == TrialState.COMPLETE
        and digest(each.user_attrs.get(FIELDS)) == digest(fields)
    )
    return Taken(trial, slot, fields, known=next(twins, None))


def name_of(host: str, process: int) -> str:
    """Returns the name of a worker."""
    return f"{host}:{process}"


def lives(
    database: Database, study: optuna.Study, worker: str, name: str, own: Sequence[int]
) -> bool:
    """Returns whether a worker still runs a trial; one that is silent is given up.

    Args:
        database: of the study.
        study: of the trial.
        worker: see `name_of`.
        name: of the trial, see `Taken`.
        own: numbers of trials that the caller runs, whose name may be the same.
    """

    def look() -> bool:
        with storage.exclusive(database), storage.quiet():
            storage.give_up_silent(database, study)
            return any(
                each.user_attrs.get(WORKER) == worker
                and digest(each.user_attrs.get(FIELDS)) == name
                and each.number not in own
                for each in _running(study)
            )

    return storage.attempt(database, look)


def report(
    database: Database,
    taken: Taken,
    step: int,
    value: float,
    kinds: Kinds | None = None,
) -> bool:
    """Reports an intermediate value and returns whether the trial is to be pruned.

    Args:
        database: of the study.
        taken: the trial.
        step: where it stands.
        value: what it is worth there.
        kinds: what was measured there of each kind, for a pruner that looks at it.

    Raises:
        UpdateFinishedTrialError: the trial was given up meanwhile.
    """

    reported = False

    def tell() -> bool:
        nonlocal reported
        if kinds is not None:
            taken.trial.set_user_attr(kinds_at(step), kinds)
        if not reported:  # Optuna warns of a second report of a step
            taken.trial.report(value, step)
        reported = True
        return taken.trial.should_prune()

    with storage.quiet():
        return storage.attempt(database, tell)


def finish(
    database: Database, study: optuna.Study, taken: Taken, outcome: Outcome
) -> bool:
    """Records what became of a trial; returns False where it had been given up before.

    A stopped trial is given up unless the database answers soon: without a sign of life
    that comes to the same.

    Raises:
        UnreachableError: the database cannot be reached.
        StudyError: it is damaged.
    """
    if outcome.pruned:
        state, value = TrialState.PRUNED, None
    elif outcome.value is not None:
        state, value = TrialState.COMPLETE, outcome.value
    else:
        state, value = TrialState.FAIL, None
    tries = 0

    def tell() -> bool:
        nonlocal tries
        tries += 1
        try:
            if state == TrialState.FAIL:
                taken.trial.set_user_attr(CAUSE, outcome.cause)
                taken.trial.set_user_attr(REASON, outcome.reason)
            if outcome.kinds is not None:
                taken.trial.set_user_attr(KINDS, outcome.kinds)
            with storage.quiet():
                study.tell(taken.trial.number, value, state=state)
            return True
        except (UpdateFinishedTrialError, ValueError):
            # An earlier try may have gone through although its answer was lost.
            now = database.storage.get_trial(taken.trial._trial_id)
            if tries > 1 and now.state == state and now.value == value:
                return True
            if not now.state.is_finished():
                raise
            logging.warning(
                "trial %d was given up before it ended here; is the grace too short?",
                taken.trial.number,
            )
            return False

    stopped = outcome.cause == STOPPED
    return storage.attempt(
        database, tell, storage.FEW_TRIES if stopped else storage.TRIES
    )
