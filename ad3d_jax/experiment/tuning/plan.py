"""A search as one study: its configurations, spaces, rungs and time."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from ad3d_jax.experiment import surroundings
from ad3d_jax.experiment.config import changed, fields_of, known
from ad3d_jax.experiment.study import (
    joint,
    objective,
    records,
    rungs,
    space,
    storage,
    trials,
    worker,
)
from ad3d_jax.experiment.study.budget import Budget, seconds_of
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Task
from ad3d_jax.experiment.study.outcomes import outcomes_of
from ad3d_jax.experiment.study.records import FIELDS, Outcome
from ad3d_jax.experiment.study.settings import Settings as StudySettings
from ad3d_jax.experiment.study.settings import settings_of
from ad3d_jax.experiment.study.slots import Rules
from ad3d_jax.experiment.study.space import Space
from ad3d_jax.experiment.study.storage import StudyError
from ad3d_jax.experiment.tuning.candidates import Field
from ad3d_jax.workdir import names
from data_pipelines import planted

SAMPLERS = ("tpe", "random")
ENDLESS = 1_000_000  # trials, where a time alone ends a search
IDLE = 25  # slots in a row that bring no new setting, after which a search ends
OF_A_STUDY = ("together", "pruner", "stages")  # settings that a search fixes
DEFAULTS = {"pruner": "none", "stages": (), "keep_best": 8}  # other than a study's


class Settings(NamedTuple):
    """How a search goes about, beside the settings of a study."""

    budget: str = ""  # a time such as 30m, at whose end all detectors are to be there
    space: str = ""  # name or file, of the settings of one system; "" = each its own
    rungs: Sequence[float] = (0.25, 0.5)  # shares, rising; () = whole fits alone
    share: bool = False  # one setting for all classes


class Plan(NamedTuple):
    """A search as all its workers see it."""

    field: Field
    own: Mapping[str, Space]  # of each configuration
    settings: Settings
    study: StudySettings
    goal: Goal


def settings_apart(given: Mapping[str, Any]) -> tuple[Settings, StudySettings]:
    """Returns the settings of a search and of its study.

    Raises:
        StudyError: one is unknown or not allowed, or nothing says how long it takes.
    """
    unknown = [n for n in given if n in OF_A_STUDY]
    unknown += [
        n for n in given if n not in (*Settings._fields, *StudySettings._fields)
    ]
    if unknown:
        known_ones = (*Settings._fields, *StudySettings._fields)
        told = ", ".join(name for name in known_ones if name not in OF_A_STUDY)
        raise StudyError(f"tune: no setting {unknown[0]}; there are {told}")
    own = Settings(**{n: x for n, x in given.items() if n in Settings._fields})
    rest = {n: x for n, x in given.items() if n in StudySettings._fields}
    study = settings_of({**DEFAULTS, **rest})
    if study.sampler not in SAMPLERS:
        raise StudyError(
            f"sampler: expected one of {SAMPLERS}, found {study.sampler!r}"
        )
    if bool(own.budget) == bool(study.trials):
        raise StudyError("budget, trials: expected one of the two, such as budget=30m")
    if own.budget:
        seconds_of(own.budget)
    rising = sorted(set(own.rungs)) == list(own.rungs)
    if not rising or not all(0 < share < 1 for share in own.rungs):
        raise StudyError(
            f"rungs: expected rising shares between 0 and 1, found {[*own.rungs]}"
        )
    return own, study


def make_plan(field: Field, settings: Settings, study: StudySettings) -> Plan:
    """Returns a search whose spaces were checked.

    Raises:
        StudyError: a space is wrong, or is named for several systems.
    """
    own = spaces_of(field, settings.space)
    joint.check(field.configs, own)
    for config in field.configs.values():
        surroundings.check(config)
    planting = planted.Settings(
        study.planted_seed,
        study.planted_each,
        tuple(study.planted_kinds),
        study.hold_out,
    )
    goal = Goal(study.metric, (), planting, dict(study.planted_weights))
    return Plan(field, own, settings, study, goal)


def spaces_of(field: Field, named: str) -> dict[str, Space]:
    """Returns the space of each configuration: its system's, or the one that is named.

    A system without a space has nothing to choose.
    """
    systems = {name: config.system for name, config in field.configs.items()}
    if named and len(set(systems.values())) > 1:
        raise StudyError(
            f"space={named}: it is of one system, found {', '.join(systems)}; name "
            "configurations of one system, or leave it out"
        )
    there = known(space.HOME)
    return {
        name: space.read_space(named or system)
        if named or system in there
        else joint.NOTHING
        for name, system in systems.items()
    }


def open_job(
    plan: Plan, folder: Path, categories: Sequence[str], devices: Any = None
) -> worker.Job:
    """Returns the search for the setting of some classes, as a worker sees it.

    Raises:
        StudyError: the database is at fault, or the search was begun otherwise.
    """
    study, configs = plan.study, plan.field.configs
    both = joint.join(configs, plan.own)
    address = study.database or str(folder / names.DATABASE)
    database = storage.open_database(
        address, storage.Pulse(study.heartbeat, study.grace)
    )
    weights = dict(study.planted_weights)
    if len(categories) > 1:
        weights = {f"{c}/{kind}": w for c in categories for kind, w in weights.items()}
    facts = {
        "systems": list(configs),
        "categories": list(categories),
        "metric": study.metric,
        "weights": weights,
        "planted": plan.goal.planting._asdict(),
        "sampler": study.sampler,
        "seed": study.seed,
        "space": both.digest,
        "rungs": list(plan.settings.rungs),
        **{
            f"{name}: {field}": value
            for name, config in configs.items()
            for field, value in fields_of(config).items()
            if field not in (*objective.PLACES, "data.category")
        },
    }
    halving = rungs.Halving(len(both.first), study.metric, weights)
    name = study.name or "tune-" + "+".join(categories)
    if study.name and len(groups(plan)) > 1:
        name = f"{study.name}-{categories[0]}"
    return worker.Job(
        database,
        trials.open_study(database, name, facts, halving),
        partial(joint.config_of, configs),
        both,
        rules_of(plan, both),
        plan.goal,
        folder,
        keep_best=study.keep_best,
        devices=devices,
        grounds=1 + len(plan.settings.rungs),
        hopeless=max(worker.HOPELESS, len(configs)),
    )


def groups(plan: Plan) -> list[tuple[str, ...]]:
    """Returns the classes that share a setting; each group is a study of its own."""
    categories = plan.field.categories
    return [categories] if plan.settings.share else [(each,) for each in categories]


def rules_of(plan: Plan, both: Space) -> Rules:
    """Returns how trials are taken: until their number, the time or the space ends."""
    study, text = plan.study, plan.settings.budget
    budget = Budget(seconds_of(text) / len(groups(plan))) if text else None
    outside = sum(len(first.params) < len(first.fields) for first in both.first)
    points = joint.points(plan.own) + outside

    def more(found: Sequence[FrozenTrial]) -> bool:
        if budget is not None and not budget.allows(found):
            return False
        return not exhausted(found, points)

    return Rules(
        study.trials or ENDLESS, study.sampler, study.seed, study.retries, more
    )


def exhausted(found: Sequence[FrozenTrial], points: float) -> bool:
    """Returns whether all settings were tried, or no new one came of late."""
    done = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    seen: set[str] = set()
    idle = 0
    for trial in found:
        if FIELDS in trial.user_attrs and trial.state in done:
            name = records.digest(trial.user_attrs[FIELDS])
            idle = idle + 1 if name in seen else 0
            seen.add(name)
    return len(seen) >= points or idle >= IDLE


def run_trials(
    categories: Sequence[str],
    shares: Sequence[float],
    tasks: Sequence[Task],
    goal: Goal,
    grounds: Grounds,
) -> list[Outcome]:
    """Returns what became of trials, rung by rung, then whole; see `worker.work`."""
    return [
        outcome
        for task in tasks
        for outcome in outcomes_of(
            [task],
            goal,
            lambda task=task: [
                rungs.climb(task, parts_of(task, categories), goal, grounds, shares)
            ],
        )
    ]


def parts_of(task: Task, categories: Sequence[str]) -> dict[str, Task]:
    """Returns what is fitted of a trial: one task a class, by its name."""
    parts = {}
    for category in categories:
        config = changed(task.config, {"data.category": category})
        folder = task.folder
        if len(categories) > 1:
            folder = folder / names.plain_name(category)
        parts[category] = task._replace(config=config, folder=folder)
    return parts
