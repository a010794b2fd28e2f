"""The fields of a configuration by dotted names, such as `fit.steps`."""

from typing import Any


def values(config: Any) -> dict[str, Any]:
    """Returns the values of a nested configuration by name; an empty group is one."""
    found = {}
    for name, value in config.items():
        if _is_group(value) and value:
            found |= {f"{name}.{inner}": x for inner, x in values(value).items()}
        else:
            found[name] = value
    return found


def names(config: Any) -> list[str]:
    """Returns the names of all groups and values of a nested configuration."""
    found = []
    for name, value in config.items():
        inner = names(value) if _is_group(value) else []
        found += [name, *(f"{name}.{each}" for each in inner)]
    return found


def within(name: str, group: str) -> bool:
    """Returns whether a field is `group` itself or belongs to it."""
    return name == group or name.startswith(f"{group}.")


def _is_group(value: Any) -> bool:
    return hasattr(value, "items")  # a dict, or a ConfigDict, which is no Mapping
