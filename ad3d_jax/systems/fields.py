"""What fields of a configuration may hold, and numbers as arrays."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from ad3d_jax.base import Array

DTYPES = "float32", "bfloat16"  # to compute in; parameters and statistics are float32


class Range(NamedTuple):
    """Finite numbers that a field may hold, or each part of one that holds several."""

    least: float = -math.inf
    most: float = math.inf
    open: bool = False  # `least` itself is not among them
    whole: bool = False
    optional: bool = False  # None is, too

    def __str__(self) -> str:
        """Returns the range in words, such as "at least 1"."""
        words = "a whole number" if self.whole else "a finite number"
        if self.most < math.inf:
            words = f"in {'(' if self.open else '['}{self.least:g}, {self.most:.10g}]"
        elif self.least > -math.inf:
            words = f"{'a number above' if self.open else 'at least'} {self.least:g}"
        return f"None or {words}" if self.optional else words

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError, which names the field, where a value is not in the range.

        Args:
            name: of the field.
            value: a number, None, or a tuple or list of numbers.
        """
        if value is None and self.optional:
            return
        for part in value if isinstance(value, tuple | list) else (value,):
            kind = int if self.whole else int | float
            if isinstance(part, bool) or not isinstance(part, kind):
                expected = "a whole number" if self.whole else "a number"
                raise ValueError(f"{name}: expected {expected}, found {value!r}")
            low = part > self.least if self.open else part >= self.least
            if not (low and part <= self.most and math.isfinite(part)):
                raise ValueError(f"{name}: expected {self}, found {value}")


COUNT = Range(1, whole=True)
FROM_ZERO = Range(0)
SHARE = Range(0, 1)
# Of numeric hyperparameters, by how their names begin; of others: finite.
HYPER: Mapping[str, Range] = {
    **dict.fromkeys(("learning_rate", "weight_decay", "loss", "rotation"), FROM_ZERO),
    **dict.fromkeys(("dada_learning_rate", "dada_loss", "focal_gamma"), FROM_ZERO),
    **dict.fromkeys(("amplitude", "strength", "noise", "margin"), FROM_ZERO),
    **dict.fromkeys(("probability", "drop", "decay", "beta_max"), SHARE),
    **dict.fromkeys(("dropout", "focal_alpha"), SHARE),
    "lambda": FROM_ZERO,
    "nu": Range(0, 1, open=True),
    **dict.fromkeys(("gate_threshold", "skew", "threshold"), Range()),
}


def one_of(*values: Any, default: Any = None) -> Any:
    """Returns a field that holds one of some values, by default the first."""
    default = values[0] if default is None else default
    return dataclasses.field(default=default, metadata={"choices": values})


def at_least(least: float, default: float) -> Any:
    """Returns a field that holds a number which is not smaller than `least`."""
    return within(Range(least, whole=isinstance(default, int)), default)


def within(allowed: Range, default: Any) -> Any:
    """Returns a field that holds a number of a range, or a tuple of such."""
    return dataclasses.field(default=default, metadata={"range": allowed})


@dataclasses.dataclass(frozen=True)
class Fields:
    """Structure of a system; a change of any field compiles anew.

    Where a field does not say otherwise, a whole number is at least 1 and any other at
    least 0; none is NaN or infinite.

    Raises:
        ValueError: names the first field that holds what it may not, what was expected
            and what was found.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))


def choice(values: tuple) -> str:
    """Returns in words that one of some values is expected."""
    return f"one of {values}"


def words(field: dataclasses.Field) -> str:
    """Returns what a field of the structure may hold, "" where nothing is said."""
    if "choices" in field.metadata:
        return choice(field.metadata["choices"])
    allowed = _usual(field.default)
    return str(field.metadata.get("range", allowed) or "")


def check(field: dataclasses.Field, value: Any) -> None:
    """Raises ValueError where a field of the structure may not hold a value."""
    name = f"model.{field.name}"
    choices = field.metadata.get("choices", (value,))
    if value not in choices:
        raise ValueError(f"{name}: expected {choice(choices)}, found {value!r}")
    usual = None if "choices" in field.metadata else _usual(value)
    allowed = field.metadata.get("range", usual)
    if allowed is not None:
        allowed.check(name, value)


def _usual(value: Any) -> Range | None:
    """Returns the range of a field that says none, by a value; None of no number."""
    parts = value if isinstance(value, tuple) else (value,)
    if any(isinstance(x, bool) or not isinstance(x, int | float) for x in parts):
        return None
    return COUNT if all(isinstance(x, int) for x in parts) else FROM_ZERO


def range_of(hyper: str) -> Range:
    """Returns what a numeric hyperparameter may be, by its name."""
    fitting = (name for name in HYPER if f"{hyper}_".startswith(f"{name}_"))
    return HYPER.get(max(fitting, key=len, default=""), Range())


def numbers(hyper: Mapping[str, float]) -> dict[str, Array]:
    """Returns numeric hyperparameters as `State.hyper` holds them."""
    return {name: jnp.float32(value) for name, value in hyper.items()}
