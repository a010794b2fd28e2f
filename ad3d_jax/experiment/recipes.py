"""Parameters of a recipe as fields of a configuration: known, typed and in range."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ad3d_jax.systems import nearest
from data_pipelines.errors import DatasetError
from data_pipelines.recipes import RECIPES
from data_pipelines.recipes.extras import MAKERS
from data_pipelines.samples import complete_parameters

GROUP = "data.recipe_parameters"
SIZES = ("image_size", "mask_size")  # one number, or rows and columns
NONE: Mapping[str, Any] = MappingProxyType({})


def check_kept(recipe: Mapping[str, Any]) -> None:
    """Checks what was kept of a recipe: name, and parameters with what it learned.

    Raises:
        ValueError: a part is missing.
    """
    for name, kind in (("recipe", str), ("params", dict)):
        if not isinstance(recipe.get(name), kind):
            found = recipe.get(name)
            raise ValueError(f"{name}: expected a {kind.__name__}, found {found!r}")
    missing = complete_parameters(recipe["recipe"], {}).keys() - recipe["params"]
    if missing:
        raise ValueError(f"params: there is no {sorted(missing)[0]!r} in it")


def is_parameter(field: str) -> bool:
    """Returns whether a dotted name is that of a recipe's parameter."""
    return field.startswith(f"{GROUP}.")


def default_of(recipe: str, field: str) -> Any:
    """Returns what a field of GROUP is where nothing sets it.

    Raises:
        ValueError: there is no such recipe, or it has no such parameter.
    """
    name = field.removeprefix(f"{GROUP}.")
    known = complete_parameters(recipe, {"extras": _makers(recipe, (name,))})
    if name not in known:
        raise DatasetError(
            f"{field}: {recipe} has none of that name{nearest(name, known)}"
        )
    return known[name]


def check(recipe: str, given: Mapping[str, Any], sizes: Mapping[str, Any] = NONE):
    """Checks parameters before any sample is read.

    Args:
        recipe: its name.
        given: parameters that differ from the recipe's own.
        sizes: parameters that other fields give, left out where the recipe has none.

    Raises:
        ValueError: there is no such recipe or parameter, or a value is of another type
            or out of its range.
    """
    extras = {*given.get("extras", ()), *_makers(recipe, given)}
    known = complete_parameters(recipe, {"extras": extras})
    whole = {name: x for name, x in sizes.items() if name in known} | dict(given)
    whole = complete_parameters(recipe, {**whole, "extras": extras})
    for name, value in given.items():
        _check_type(name, known[name], value)
    RECIPES[recipe].fit(whole, ())  # which checks ranges, and has nothing to learn from


def _makers(recipe: str, names) -> list[str]:
    """Returns the extras of a recipe that have one of some parameters."""
    can = RECIPES[recipe].extras if recipe in RECIPES else ()
    return [extra for extra in can if MAKERS[extra].defaults.keys() & set(names)]


def _check_type(name: str, default: Any, value: Any) -> None:
    if default is None or type(value) is type(default):
        return
    if isinstance(default, float) and type(value) is int:
        return
    if isinstance(default, list) and isinstance(value, tuple):
        return
    if name in SIZES and isinstance(value, tuple) and len(value) == 2:
        return
    raise DatasetError(
        f"{GROUP}.{name}: expected {type(default).__name__} such as {default!r}, "
        f"found {value!r}"
    )
