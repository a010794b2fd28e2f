"""Configurations: found by name, changed by dotted names, as text and as JSON."""

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import re
import runpy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ad3d_jax.experiment import ranges, recipes
from ad3d_jax.systems import nearest
from ad3d_jax.workdir import fields as dotted
from ad3d_jax.workdir import names
from ad3d_jax.workdir.json_files import read_json
from ad3d_jax.workdir.places import local
from ad3d_jax.workdir.unreadable import reading

NEEDS = (  # what a run reads of each configuration
    *("system", "variant", "seed", "model", "hyper", "weights", "save_weights"),
    *("data.recipe", "data.recipe_parameters", "data.root", "data.category"),
    *("data.image_size", "data.mask_size", "data.batch_size", "data.sample_set"),
    *("fit.engine", "fit.device_memory_bytes", "eval.batch_size"),
)
HOME = "experiments.configs"  # the package whose files are found by name
WORDS = re.compile(r"\w+(,\w+)*")  # names of modalities, layers, extras
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")
Source = ConfigDict | str | os.PathLike


def load(source: Source) -> ConfigDict:
    """Returns a configuration of one's own.

    Args:
        source: a name such as `patchcore`, or the path of a file with `get_config`,
            each with `:variant`, variants joined by "+"; or `module:NAME` of a system
            outside this library, which has its defaults; or a configuration.

    Raises:
        ValueError: there is no such configuration or variant; the nearest is named.
    """
    if isinstance(source, ConfigDict):
        return source.copy_and_resolve_references()
    name, colon, variant = os.fspath(source).partition(":")
    if colon and _is_module(name):
        return names_in(_files(HOME)["base"])["base_config"](os.fspath(source))
    found = names_in(find(name))
    if "get_config" not in found:
        raise ValueError(f"configuration {name}: the file defines no get_config")
    get_config = found["get_config"]
    if colon and not inspect.signature(get_config).parameters:
        raise ValueError(f"configuration {name} has no variants, found {variant!r}")
    return get_config(variant) if colon else get_config()


def _is_module(name: str) -> bool:
    """Returns whether a name is that of a module, not of a configuration."""
    if _is_path(name) or name in known():
        return False
    return "." in name or (
        name.isidentifier() and importlib.util.find_spec(name) is not None
    )


def _is_path(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def find(name: str, home: str = HOME) -> Path:
    """Returns the file of a name, or of a path as it is.

    Args:
        name: of a file of `home`, or a path: what ends in .py or has a separator.
        home: a package.

    Raises:
        ValueError: there is none.
    """
    what = home.rpartition(".")[2].removesuffix("s")
    if _is_path(name):
        path = local(name, what)
        if not path.is_file():
            raise ValueError(f"{what}: there is no file {name}")
        return path
    files = known(home)
    if name not in files:
        raise ValueError(f"{what}: no {name!r}{nearest(name, files)}")
    return files[name]


def known(home: str = HOME) -> dict[str, Path]:
    """Returns the files of a package of configurations or spaces, by name, sorted."""
    return {name: file for name, file in _files(home).items() if name != "base"}


def _files(home: str) -> dict[str, Path]:
    # They are not imported: they stand below this floor, as a user's own do.
    spec = importlib.util.find_spec(home)
    files = sorted(
        path
        for folder in spec.submodule_search_locations
        for path in Path(folder).glob("[a-z]*.py")
    )
    return {path.stem: path for path in files}


def names_in(file: Path) -> dict[str, Any]:
    """Runs a file of Python and returns what it defines; ValueError where it fails."""
    try:
        return runpy.run_path(str(file))
    except Exception as error:  # noqa: BLE001 (the user's own code)
        kind = type(error).__name__
        raise ValueError(f"configuration: {file}: {kind}: {error}") from error


def variants(name: str) -> list[str]:
    """Returns the names of a configuration's variants, in the order of its file.

    Args:
        name: as in `load`, with a variant or without.
    """
    bare, colon, _ = name.partition(":")
    if colon and _is_module(bare):
        return []
    return list(names_in(find(bare)).get("VARIANTS", ()))


def read_config(workdir: Path) -> ConfigDict:
    """Returns the configuration that a workdir was made with.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = workdir / names.CONFIG
    found = from_plain(read_json(path, hint="name a finished run", needs=NEEDS))
    with reading(path):
        ranges.check(dotted.values(found))
    return found


# --- Fields ---------------------------------------------------------------------------


def plain(config: ConfigDict) -> dict:
    """Returns the configuration as JSON types."""
    return json.loads(json.dumps(config.to_dict()))


def from_plain(table: Mapping[str, Any]) -> ConfigDict:
    """Returns the configuration that `plain` made JSON types of."""

    def typed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: typed(item) for name, item in value.items()}
        return tuple(map(typed, value)) if isinstance(value, list) else value

    return ConfigDict(typed(table))


def config_hash(config: Mapping) -> str:
    """Returns 12 hex digits that stand for all fields of a plain configuration."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fields_of(config: ConfigDict) -> dict[str, Any]:
    """Returns the values of a configuration, as JSON types, by dotted names."""
    return dotted.values(plain(config))


def changed(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of the configuration with some fields set, by dotted names.

    Raises:
        ValueError: a field is unknown (the nearest is named), of another type, or out
            of its range.
    """
    config = config.copy_and_resolve_references()
    for name, value in fields.items():
        _check_known(config, name)
        try:
            config.update_from_flattened_dict({name: value})
        except (KeyError, TypeError, ValueError, AttributeError):
            expected = type(_value(config, name)).__name__
            raise ValueError(f"{name}: expected {expected}, found {value!r}") from None
    check(config)
    return config


def check(config: ConfigDict) -> None:
    """Raises ValueError where a field is out of its range."""
    ranges.check(dotted.values(config))
    if "data" in config and "recipe" in config.data:
        data = config.data
        sizes = {name: data[name] for name in recipes.SIZES}
        recipes.check(data.recipe, data.recipe_parameters.to_dict(), sizes)


def read_texts(config: ConfigDict, texts: Iterable[str]) -> dict[str, Any]:
    """Returns the fields that texts FIELD=VALUE name, each in the field's type.

    FIELD alone is true where the field is a bool.

    Raises:
        ValueError: a field is unknown, or the text is no value of its type.
    """
    fields, texts = {}, list(texts)
    named = [t for t in texts if t.startswith("data.recipe=")]
    if named:  # its parameters may be named before it
        config = config.copy_and_resolve_references()
        config.data.recipe = named[-1].partition("=")[2]
    for text in texts:
        name, equals, value = text.partition("=")
        _check_known(config, name)
        if not equals and not isinstance(_value(config, name), bool):
            raise ValueError(f"{name}: expected {name}=VALUE, found no value")
        fields[name] = read_value(config, name, value) if equals else True
    return fields


def read_value(config: ConfigDict, name: str, text: str) -> Any:
    """Returns a text as a value of a field's type; "None" is None but in a text field.

    Raises:
        ValueError: it is none.
    """
    now = _value(config, name)
    if isinstance(now, str):
        return text
    try:
        if text == "None":
            return None
        if isinstance(now, bool):
            return bool((*FALSE, *TRUE).index(text.lower()) // len(FALSE))
        pair = recipes.is_parameter(name) and text.startswith("(")
        if isinstance(now, int | float) and not pair:
            return type(now)(text)
        if isinstance(now, tuple | list):
            return type(now)(_items(now, text))
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        if now is None:
            return text
        expected = f"{type(now).__name__} such as {written(now)}"
        raise ValueError(f"{name}: expected {expected}, found {text!r}") from None


def _items(now: Sequence, text: str) -> Sequence:
    """Returns a text as several values, or as one: `rgb,depth`, `(2,3)`, `'rgb'`.

    Words need no quotes where the field holds words.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if not (WORDS.fullmatch(text) and all(isinstance(x, str) for x in now)):
            raise
        return text.split(",")
    return value if isinstance(value, tuple | list) else [value]


def written(value: Any) -> str:
    """Returns a value as `read_value` reads it; texts keep their blanks."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        inner = ",".join(f"{name!r}:{_part(item)}" for name, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        inner = ",".join(map(_part, value)) + "," * (len(value) == 1)
        return f"({inner})"
    return str(value)


def _part(value: Any) -> str:
    """Returns a value as it is written within another."""
    return repr(value) if isinstance(value, str) else written(value)


def flags_of(config: ConfigDict) -> list[str]:
    """Returns the flags that give a configuration: its name, and what differs."""
    variant = "" if config.variant == "default" else f":{config.variant}"
    try:
        named = config.system + variant
        before = fields_of(load(named))
    except ValueError:  # a variant of a file of the user's own
        named = config.system
        before = fields_of(load(named))
    own = fields_of(config)
    differ = [n for n in own if n != "variant" and own[n] != before.get(n)]
    return [f"--config={named}", *(f"--config.{n}={written(own[n])}" for n in differ)]


def _check_known(config: ConfigDict, name: str) -> None:
    if recipes.is_parameter(name):
        return  # the recipe says which it has
    known = dotted.values(plain(config))
    if name in known or name == recipes.GROUP:
        return
    if name in dotted.names(plain(config)):
        raise ValueError(f"{name}: a group of fields; name one of its fields")
    raise ValueError(f"{name}: no such field{nearest(name, known)}")


def _value(config: ConfigDict, name: str) -> Any:
    """Returns the value of a field by its dotted name, a recipe's own by default."""
    if recipes.is_parameter(name):
        return recipes.default_of(config.data.recipe, name)
    for part in name.split("."):
        config = config.get(part) if isinstance(config, ConfigDict) else None
    return config.to_dict() if isinstance(config, ConfigDict) else config
