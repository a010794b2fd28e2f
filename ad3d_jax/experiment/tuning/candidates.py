"""Which configurations are tried on a class, and which are left out and why."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

from ad3d_jax.experiment import pretrained, scopes
from ad3d_jax.experiment.config import changed, fields_of, load, read_texts, written
from ad3d_jax.experiment.data import category_of, needs_points
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study.storage import StudyError
from ad3d_jax.workdir.fields import within
from data_pipelines import layout, sources
from data_pipelines.calibration import FOLDS
from data_pipelines.samples import measured_by

# What is tried where no system is named: of each, what fits on a small machine.
CANDIDATES = (
    *("patchcore:resnet18", "padim:resnet18", "simplenet:cpu", "btf:cpu"),
    *("cfm:resnet18_fpfh", "cpmf:cpu", "shape_guided:cpu", "easynet:cpu"),
    *("draem:cpu", "dsr:cpu", "dsr3d:cpu", "das3d:cpu", "dbrn:cpu"),
)
ELSEWHERE = {  # fields that a flag names
    "data.category": "categories",
    "data.mask_size": "mask_size",
    "data.root": "data",
}
# Alike in all configurations, so that all trials are judged on the same samples.
COMMON = ("data.root", "data.name", "data.sample_set", "data.on_missing", "calibration")


class Asked(NamedTuple):
    """What is tried, as the command names it."""

    systems: tuple[str, ...] = ()  # configurations; () = all of CANDIDATES that can be
    categories: tuple[str, ...] = ()  # classes; () = the only one
    data: str = ""  # folder of classes; "" = the generated sample set
    weights: tuple[str, ...] = ()  # PART=FILE, or NAME:PART=FILE
    set: tuple[str, ...] = ()  # FIELD=VALUE, or NAME:FIELD=VALUE
    mask_size: int = 256  # side of all maps and masks, pixels


class Field(NamedTuple):
    """The configurations that are tried."""

    configs: dict[str, ConfigDict]  # by name; the class is the first
    left_out: dict[str, str]  # name -> why
    categories: tuple[str, ...]


def texts_of(given: Mapping[str, Any] | Sequence[str]) -> tuple[str, ...]:
    """Returns settings NAME=VALUE of a table, or those that are texts already."""
    if isinstance(given, Mapping):
        values = {
            n: os.fspath(x) if isinstance(x, Path) else x for n, x in given.items()
        }
        return tuple(f"{name}={written(value)}" for name, value in values.items())
    return tuple(given)


def open_field(asked: Asked) -> Field:
    """Returns the configurations that are tried, checked before any work.

    Raises:
        ValueError: a configuration or a field is wrong, a named one cannot be fitted to
            the class, or none is left.
    """
    names = tuple(dict.fromkeys(asked.systems or CANDIDATES))
    systems = {name: load(name).system for name in names}
    for_all, own = scopes.apart(asked.set, systems, ELSEWHERE)
    files = scopes.apart(asked.weights, systems, {})
    configs = {}
    for name in names:
        texts = (*for_all, *own.get(name, ()))
        config = load(name)
        fields = {"data.root": asked.data, "data.mask_size": asked.mask_size}
        try:
            config = changed(config, {**fields, **read_texts(config, texts)})
            weights = _weights(config, (*files[0], *files[1].get(name, ())))
            configs[name] = changed(config, weights)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    _check_parts(asked.weights, configs)
    _check_common(configs)
    if next(iter(configs.values())).calibration.source == FOLDS:
        raise ValueError(
            f"calibration.source={FOLDS}: all training samples calibrate, and defects "
            "are planted into some of them to choose; use validation, held_out or none"
        )
    categories = _categories(asked, next(iter(configs.values())))
    with_class = {"data.category": categories[0]}
    configs = {name: changed(config, with_class) for name, config in configs.items()}
    if not asked.data:
        configs = _with_sample_set(configs, categories)
    there = [_measured(next(iter(configs.values())), name) for name in categories]
    left_out = {}
    for name, config in list(configs.items()):
        why = _why_not(config, frozenset.intersection(*there), bool(asked.systems))
        if why and asked.systems:
            raise ValueError(f"{name}: {why}")
        if why:
            left_out[name] = why
            del configs[name]
    if not configs:
        raise StudyError("systems: none can be tried; " + _told(left_out))
    if left_out:
        logging.warning("left out: %s", _told(left_out))
    return Field(configs, left_out, categories)


def _told(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in left_out.items())


def _weights(config: ConfigDict, texts: Iterable[str]) -> dict[str, str]:
    """Returns the fields of the files for the parts that a configuration has."""
    parts = _parts(config)
    pairs = (text.partition("=") for text in texts)
    return {f"weights.{n}": file for n, _, file in pairs if n in parts}


def _parts(config: ConfigDict) -> set[str]:
    """Returns the names of the parts that files may bring."""
    return {row.name for row in build_system(config).pretrained}


def _check_parts(texts: Sequence[str], configs: Mapping[str, ConfigDict]) -> None:
    """Raises ValueError where weights are of a part that no configuration has."""
    if not texts:
        return
    known = set().union(*map(_parts, configs.values()))
    for text in texts:
        part = scopes.split(text)[1].partition("=")[0]
        if part not in known:
            raise ValueError(
                f"weights: expected one of {', '.join(sorted(known)) or 'nothing'}, "
                f"found {part!r}"
            )


def _check_common(configs: Mapping[str, ConfigDict]) -> None:
    """Raises ValueError where what must be alike in all configurations differs."""
    first, *others = configs.items()
    for name, config in others:
        for field, value in fields_of(config).items():
            before = fields_of(first[1]).get(field)
            if any(within(field, group) for group in COMMON) and value != before:
                raise ValueError(
                    f"{field}: expected one value for all systems, found {before!r} of "
                    f"{first[0]} and {value!r} of {name}; name it by set={field}=VALUE"
                )


def _categories(asked: Asked, config: ConfigDict) -> tuple[str, ...]:
    """Returns the classes that are meant."""
    if not asked.data:
        return asked.categories or (category_of(config),)
    root = Path(asked.data).expanduser()
    found = asked.categories or tuple(layout.categories(root, config.data.name))
    if len(found) > 1 and not asked.categories:
        raise ValueError(
            f"categories: {asked.data} holds {', '.join(found)}; name those that are "
            "meant"
        )
    if not found:
        raise ValueError(f"categories: {asked.data} has no folder with train in it")
    return tuple(dict.fromkeys(found))


def _with_sample_set(
    configs: Mapping[str, ConfigDict], categories: Sequence[str]
) -> dict[str, ConfigDict]:
    """Makes the sample set as large as the largest images, one for all."""
    data = next(iter(configs.values())).data
    size = max(config.data.image_size for config in configs.values())
    for category in categories:
        counts = data.sample_set.to_dict()
        root = sources.sample_set(data.cache, category, size, counts)
    fields = {"data.root": os.fspath(root)}
    return {name: changed(config, fields) for name, config in configs.items()}


def _measured(config: ConfigDict, category: str) -> frozenset[str]:
    """Returns which of "rgb" and "xyz" the files of a class have."""
    root = Path(config.data.root).expanduser()
    found = layout.scan(root, category, config.data.name)
    if not found.samples:
        raise ValueError(f"data.root: {root} holds no whole sample of {category}")
    return measured_by(found.samples[0])


def _why_not(config: ConfigDict, measured: frozenset[str], named: bool) -> str:
    """Returns why a configuration cannot be tried, "" where it can.

    One that was named may go without weights, as everywhere.
    """
    system = build_system(config)
    needs = {*system.needs_fit, *system.needs_score}
    lacks = ["rgb"] if "rgb" in needs and "rgb" not in measured else []
    lacks += ["xyz"] if needs_points(system) and "xyz" not in measured else []
    if lacks:
        return f"the class has no {' and no '.join(lacks)}"
    if not named and (parts := _without_weights(config)):
        return f"no weights for {', '.join(parts)}"
    try:
        pretrained.bring(config, system)
    except ValueError as error:
        return str(error)
    return ""


def _without_weights(config: ConfigDict) -> tuple[str, ...]:
    """Returns the networks that neither files bring nor phases make."""
    system = build_system(config)
    made, named = pretrained.parts_made(system), set(pretrained.loaded(config))
    state = pretrained.shapes(config, system)
    return tuple(
        row.name
        for row in system.pretrained
        if row.name not in made | named and pretrained.is_network(row.get(state))
    )
