"""How a system is configured and built, and where one outside this library is found."""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ad3d_jax.base import System

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Entry(NamedTuple):
    """How a system is configured and built."""

    config: type  # frozen dataclass of structural choices
    factory: Callable[[Any], System]  # config -> System
    hyper: Mapping[str, float]  # numeric hyperparameters and their defaults


def imported(name: str) -> Entry:
    """Returns the system that `module:NAME` names; the module is imported.

    NAME is an Entry, or a function that says that it returns a System (`-> System`).
    The parameters of the function are the fields of `model`.

    Raises:
        ValueError: the module cannot be imported, or NAME is neither.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # noqa: BLE001 (the user's own code)
        raise ValueError(
            f"system: {module}: {type(error).__name__}: {error}; expected a module "
            "that Python finds: installed, in this folder or on PYTHONPATH"
        ) from error
    if isinstance(found, Entry):
        return found
    # The name may stand in a workdir. What does not say that it makes systems is not
    # called, since almost any function of any module could be named there.
    if not inspect.isfunction(found) or _returned(found) is not System:
        raise ValueError(
            f"system: {name}: expected an Entry, or a function that is annotated to "
            f"return a System (-> System), found {_words(found)}"
        )
    return Entry(_config_of(name, found), lambda config: found(**vars(config)), {})


def _returned(function: Callable) -> Any:
    """Returns what a function says that it returns."""
    try:
        return typing.get_type_hints(function).get("return")
    except NameError:  # an annotation that has no meaning when the program runs
        return None


def _config_of(name: str, function: Callable) -> type:
    """Returns the parameters of a function as a frozen dataclass."""
    fields = []
    for parameter in inspect.signature(function).parameters.values():
        default = parameter.default
        if default is parameter.empty or parameter.kind not in NAMED:
            raise ValueError(
                f"system: {name}: expected parameters with names and defaults, found "
                f"{parameter}"
            )
        fields.append((parameter.name, type(default), default))
    return dataclasses.make_dataclass("Config", fields, frozen=True)


def _words(found: Any) -> str:
    """Returns what was found in a word or two."""
    return "nothing of that name" if found is None else type(found).__name__
