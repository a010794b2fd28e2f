"""Whom the settings of a grid are for: all its configurations, or those of one name.

`FIELD=VALUE` is for all, `NAME:FIELD=VALUE` for those whose name NAME is, with variant
or without, and for those of the system NAME.
"""

from collections.abc import Iterable, Mapping

from ad3d_jax.systems import nearest

OF_THE_GRID = {  # fields that a grid sets itself -> where they are named
    "seed": "seeds",
    "data.category": "categories",
    "data.mask_size": "mask_size",
    "data.root": "data",
}


def split(text: str) -> tuple[str, str]:
    """Returns (NAME, FIELD=VALUE) of a setting; NAME is "" where it is for all."""
    left, equals, value = text.partition("=")
    name, _, field = left.rpartition(":")
    return name, f"{field}{equals}{value}"


def apart(
    texts: Iterable[str], systems: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Returns the settings for all, and those of single configurations.

    Of one configuration, those that give its whole name come last, so that they win.

    Args:
        texts: settings.
        systems: system of each configuration, by the configuration's name.

    Raises:
        ValueError: a setting is for no configuration, or is the grid's own.
    """
    settings = [split(text) for text in texts]
    met = {name: {name.partition(":")[0], name, systems[name]} for name in systems}
    known = set().union(*met.values())
    for scope, text in settings:
        field = text.partition("=")[0]
        if field in OF_THE_GRID:
            raise ValueError(f"set: {field} is named by {OF_THE_GRID[field]}")
        if scope and scope not in known:
            raise ValueError(
                f"set: {scope}:{text}: the grid has no {scope!r}{nearest(scope, known)}"
            )
    for_all = tuple(text for scope, text in settings if not scope)
    own = {}
    for name, scopes in met.items():
        ordered = sorted(settings, key=lambda setting: setting[0] == name)
        if found := tuple(text for scope, text in ordered if scope in scopes):
            own[name] = found
    return for_all, own
