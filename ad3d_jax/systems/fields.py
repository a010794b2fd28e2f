"""Fields of a system's configuration that are checked, and numbers as arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ad3d_jax.base import Array

DTYPES = "float32", "bfloat16"  # to compute in; parameters and statistics are float32


def one_of(*values: Any, default: Any = None) -> Any:
    """Returns a field that holds one of some values, by default the first."""
    default = values[0] if default is None else default
    return dataclasses.field(default=default, metadata={"choices": values})


def at_least(least: float, default: float) -> Any:
    """Returns a field that holds a number which is not smaller than `least`."""
    return dataclasses.field(default=default, metadata={"least": least})


@dataclasses.dataclass(frozen=True)
class Fields:
    """Structure of a system; a change of any field compiles anew.

    Raises:
        ValueError: names the first field that holds what it may not, what was expected
            and what was found.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            choices = field.metadata.get("choices", (value,))
            if value not in choices:
                raise ValueError(
                    f"model.{name}: expected one of {choices}, found {value!r}"
                )
            least = field.metadata.get("least", value)
            if value < least:
                raise ValueError(
                    f"model.{name}: expected at least {least}, found {value}"
                )


def numbers(hyper: Mapping[str, float]) -> dict[str, Array]:
    """Returns numeric hyperparameters as `State.hyper` holds them."""
    return {name: jnp.float32(value) for name, value in hyper.items()}
