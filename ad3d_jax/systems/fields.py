"""Fields of a system's configuration: words and counts checked, numbers as arrays."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ad3d_jax.base import Array

DTYPES = ("float32", "bfloat16")


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


def check_counts(config: Any, *names: str) -> None:
    """Checks that fields of a configuration are at least 1.

    Raises:
        ValueError: names the first field that is not, and what was found.
    """
    for name in names:
        value = getattr(config, name)
        if value < 1:
            raise ValueError(f"model.{name}: expected at least 1, found {value}")


def numbers(hyper: Mapping[str, float]) -> dict[str, Array]:
    """Returns numeric hyperparameters as `State.hyper` holds them."""
    return {name: jnp.float32(value) for name, value in hyper.items()}
