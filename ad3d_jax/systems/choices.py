"""Checking the words of a configuration."""

from collections.abc import Mapping
from typing import Any


def check_choices(config: Any, allowed: Mapping[str, tuple]) -> None:
    """Checks that each field of a configuration holds one of its allowed values.

    Args:
        config: a system's dataclass.
        allowed: values by the name of the field.

    Raises:
        ValueError: names the first field that does not, the values and what was found.
    """
    for name, values in allowed.items():
        value = getattr(config, name)
        if value not in values:
            raise ValueError(f"model.{name}: expected one of {values}, found {value!r}")
