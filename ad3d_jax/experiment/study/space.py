"""What a study may change: the space, its checks, its samplers and pruners.

A space is a table like SPACE, or a Python file that holds one of

    SPACE = {
        "hyper.noise_std": {"low": 0.005, "high": 0.05, "log": True},
        "model.epochs": {"low": 10, "high": 40, "step": 10},
        "model.modalities": [["rgb"], ["rgb", "depth"]],
    }

    def space(trial):
        return {"hyper.noise_std": trial.suggest_float("noise", 0.005, 0.05, log=True)}
"""

import hashlib
import itertools
import json
import os
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from ml_collections import ConfigDict
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ad3d_jax.experiment import config as configs
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study.storage import StudyError, quiet
from ad3d_jax.systems import check_field
from ad3d_jax.workdir import fields

FIXED = ("system", "variant", "data.root", "data.name", "data.category", "data.cache")
RANGE = ("low", "high", "step", "log")
HOME = "experiments.spaces"  # whose files are found by name
STARTUP = 10  # trials before the sampler and the pruner trust what they have seen


class First(NamedTuple):
    """A trial that is not suggested: its fields, and those that the sampler knows."""

    fields: Mapping[str, Any]
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


class Space(NamedTuple):
    """What a study may change."""

    suggest: Callable[[optuna.Trial], Mapping[str, Any]]  # field -> value
    grid: Mapping[str, BaseDistribution] | None  # None = a function, which has none
    digest: str  # of the file or the table
    first: Sequence[First] = ()  # of the first slots, in order


def read_space(source: str | os.PathLike | Mapping[str, Any]) -> Space:
    """Reads a space.

    Args:
        source: a table as SPACE, the path of a space file, or the name of one of
            experiments/spaces.

    Raises:
        StudyError: it is not there, fails, or holds neither SPACE nor space, or an
            entry of SPACE is no choice and no range.
    """
    if isinstance(source, Mapping):
        return _of_table(source, json.dumps(source, default=list).encode())
    try:
        path = configs.find(os.fspath(source), HOME)
    except ValueError as error:
        raise StudyError(str(error)) from None
    try:
        text = path.read_bytes()
        names = runpy.run_path(str(path))
    except OSError as error:
        raise StudyError(f"space: {path}: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001 (the user's own code)
        raise StudyError(f"space: {path}: {type(error).__name__}: {error}") from error
    if callable(names.get("space")):
        return Space(names["space"], None, _digest(text))
    if not isinstance(names.get("SPACE"), Mapping):
        raise StudyError(f"space: {path} defines neither SPACE nor space(trial)")
    return _of_table(names["SPACE"], text)


def _of_table(table: Mapping[str, Any], text: bytes) -> Space:
    """Returns the space of a table of choices and ranges."""
    if not table:
        raise StudyError("space: expected fields that may change, found none")
    known = {name: distribution_of(name, each) for name, each in table.items()}

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        return {name: _decoded(_suggested(trial, name, known[name])) for name in known}

    return Space(suggest, known, _digest(text))


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]


def check(space: Space, config: ConfigDict, sampler: str) -> None:
    """Checks before any work that the space names fields of the configuration.

    Raises:
        StudyError: a field is unknown (the nearest is named), fixed within a study, of
            another type or out of its range at an end of the space, or the sampler
            needs a grid and there is none.
    """
    for name, each in (space.grid or {}).items():
        for value in _ends(each):
            changed(config, {name: value})
            if name.startswith("model."):
                check_field(config.system, name.removeprefix("model."), value)
    with quiet():
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
        values = suggested(space, trial)
    build_system(changed(config, values))
    if sampler == "grid":
        grid_points(space, 0)


def suggested(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """Returns the values of a trial's fields.

    Raises:
        StudyError: the space is no table of fields.
    """
    values = space.suggest(trial)
    if not isinstance(values, Mapping):
        raise StudyError("space: space(trial) must return {field: value}")
    return dict(values)


def changed(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of the configuration with some fields set, by dotted names.

    Raises:
        StudyError: a field is unknown, fixed within a study or of another type.
    """
    for name in values:
        if any(fields.within(name, group) for group in FIXED):
            raise StudyError(f"space: {name} is the same for all trials of a study")
    try:
        return configs.changed(config, values)
    except ValueError as error:
        raise StudyError(f"space: {error}") from None


def grid_points(space: Space, seed: int) -> list[dict[str, Any]]:
    """Returns all points of a grid in an order that depends on the seed.

    Raises:
        StudyError: there is no grid.
    """
    if space.grid is None:
        raise StudyError("the sampler grid needs the table SPACE, found space(trial)")
    axes = {name: _axis(name, each) for name, each in space.grid.items()}
    points = [
        dict(zip(axes, point, strict=True))
        for point in itertools.product(*axes.values())
    ]
    order = np.random.default_rng(seed).permutation(len(points))
    return [points[number] for number in order]


def make_sampler(name: str, seed: int, slot: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler of one slot, seeded by the study's seed and the slot.

    One sampler for all slots would begin anew with every worker, so that workers of
    one seed, or one that was started again, would suggest what was suggested before.
    """
    own = int(np.random.SeedSequence((seed, slot)).generate_state(1)[0])
    with quiet():
        if name == "tpe":
            return optuna.samplers.TPESampler(
                seed=own, n_startup_trials=STARTUP, constant_liar=True
            )
        return optuna.samplers.RandomSampler(seed=own)


def make_pruner(name: str) -> optuna.pruners.BasePruner:
    """Returns the pruner of a name: median, halving or none."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP // 2)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=25)
    return optuna.pruners.NopPruner()


def distribution_of(name: str, entry: Any) -> BaseDistribution:
    """Returns what an entry of SPACE says."""
    try:
        if isinstance(entry, Mapping) and {"low", "high"} <= set(entry) <= set(RANGE):
            whole = all(isinstance(entry.get(part, 0), int) for part in RANGE)
            kind = IntDistribution if whole else FloatDistribution
            return kind(**entry)
        if isinstance(entry, Sequence) and not isinstance(entry, str) and entry:
            return CategoricalDistribution([encoded(value) for value in entry])
    except (TypeError, ValueError) as error:
        raise StudyError(f"space: {name}: {error}") from None
    raise StudyError(
        f"space: {name}: expected a list of choices or a table of "
        f"{', '.join(RANGE)}; found {entry!r}"
    )


def _ends(distribution: BaseDistribution) -> list[Any]:
    """Returns the least and the greatest value of a range, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return [_decoded(choice) for choice in distribution.choices]
    return [distribution.low, distribution.high]


def _suggested(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    table = {part: getattr(distribution, part) for part in RANGE}
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, **table)
    return trial.suggest_float(name, **table)


def _axis(name: str, distribution: BaseDistribution) -> list[Any]:
    """Returns the values of a grid along one field."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is None or distribution.log:
        raise StudyError(f"space: {name}: a grid needs a list or a step, found neither")
    count = round((high - low) / step) + 1
    cast = int if isinstance(distribution, IntDistribution) else float
    return [cast(low + number * step) for number in range(count)]


def encoded(value: Any) -> Any:
    """Returns a choice as Optuna stores it: numbers as they are, others as JSON."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    plain = json.loads(value)
    return tuple(plain) if isinstance(plain, list) else plain
