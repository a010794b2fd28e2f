"""Fields of a configuration are checked where it is made, by those who inherit, too."""

from dataclasses import dataclass

import jax.numpy as jnp
import pytest

from ad3d_jax.systems.fields import Fields, at_least, numbers, one_of


@dataclass(frozen=True)
class Parent(Fields):
    fusion: str = one_of("early", "late")
    scales: int = one_of(1, 3, default=3)
    steps: int = at_least(1, 10)


@dataclass(frozen=True)
class Child(Parent):
    steps: int = at_least(5, 20)
    name: str = "free"


def test_defaults():
    assert (Parent().fusion, Parent().scales, Parent().steps) == ("early", 3, 10)
    assert Child(name="other").steps == 20


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (
            Parent,
            {"fusion": "none"},
            r"model.fusion: .* \('early', 'late'\), .* 'none'",
        ),
        (Child, {"scales": 2}, r"model.scales: expected one of \(1, 3\), found 2"),
        (Parent, {"steps": 0}, "model.steps: expected at least 1, found 0"),
        (Child, {"steps": 4}, "model.steps: expected at least 5, found 4"),
    ],
)
def test_what_a_field_may_not_hold_is_named(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_numbers_are_arrays_of_no_dimension():
    (value,) = numbers({"rate": 0.5}).values()
    assert value.shape == () and value.dtype == jnp.float32 and value == 0.5
