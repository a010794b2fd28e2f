"""One space over several configurations: which of them, and the settings of its own.

A parameter of a configuration bears its name, as in `padim:resnet18/model.dimensions`,
so that what is seen of one says nothing of another.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import optuna
from ml_collections import ConfigDict
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from ad3d_jax.experiment.config import fields_of
from ad3d_jax.experiment.study import space as spaces
from ad3d_jax.experiment.study.space import First, Space
from ad3d_jax.experiment.study.storage import StudyError

CONFIGURATION = "configuration"  # the field of a trial that names it
NOTHING = Space(lambda _: {}, {}, "")  # of a system that has nothing to choose


def join(configs: Mapping[str, ConfigDict], own: Mapping[str, Space]) -> Space:
    """Returns the space that chooses a configuration, and then of its own space.

    The first trials are the configurations as they are, one each.

    Args:
        configs: by name, one at least.
        own: space of each.
    """
    names = list(configs)

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        name = trial.suggest_categorical(CONFIGURATION, names)
        return {CONFIGURATION: name} | spaces.suggested(own[name], _Named(trial, name))

    text = json.dumps([(name, own[name].digest) for name in names])
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    first = tuple(_as_it_is(names, name, configs[name], own[name]) for name in names)
    return Space(suggest, None, digest, first)


def config_of(
    configs: Mapping[str, ConfigDict], fields: Mapping[str, Any]
) -> ConfigDict:
    """Returns the configuration of a trial, by its fields.

    Raises:
        StudyError: a field is unknown, fixed within a study or of another type.
    """
    own = {name: _typed(x) for name, x in fields.items() if name != CONFIGURATION}
    return spaces.changed(configs[fields[CONFIGURATION]], own)


def points(own: Mapping[str, Space]) -> float:
    """Returns how many settings there are in all, infinity where that has no end."""
    return sum(
        math.inf
        if space.grid is None
        else math.prod(_count(each) for each in space.grid.values())
        for space in own.values()
    )


def _count(distribution: BaseDistribution) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return math.inf
    step = distribution.step or 1
    return round((distribution.high - distribution.low) / step) + 1


def _as_it_is(names: list[str], name: str, config: ConfigDict, own: Space) -> First:
    """Returns the trial of a configuration that nothing was changed in."""
    values = fields_of(config)
    usual = {field: values[field] for field in own.grid or {}}
    kinds = {CONFIGURATION: CategoricalDistribution(names)}
    params: dict[str, Any] = {CONFIGURATION: name}
    for field, value in usual.items():
        kind, value = own.grid[field], spaces.encoded(value)
        if _within(kind, value):
            kinds[f"{name}/{field}"], params[f"{name}/{field}"] = kind, value
    return First({CONFIGURATION: name, **usual}, params, kinds)


def _within(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def _typed(value: Any) -> Any:
    """Returns a value of a field as configurations have it, lists as tuples."""
    return tuple(map(_typed, value)) if isinstance(value, list) else value


class _Named:
    """A trial that puts the name of a configuration before those of parameters."""

    def __init__(self, trial: optuna.Trial, name: str):
        self._trial, self._name = trial, name

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._trial, method)
        return partial(self._named, found) if method.startswith("suggest_") else found

    def _named(self, method: Any, name: str, *more: Any, **options: Any) -> Any:
        return method(f"{self._name}/{name}", *more, **options)


def check(configs: Mapping[str, ConfigDict], own: Mapping[str, Space]) -> None:
    """Checks before any work that each space names fields of its configuration.

    Raises:
        StudyError: see `space.check`; the configuration is named.
    """
    for name, config in configs.items():
        try:
            spaces.check(own[name], config, "random")
        except ValueError as error:
            raise StudyError(f"{name}: {error}") from None
