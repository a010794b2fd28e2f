"""Systems outside the library, named by `module:NAME`."""

import sys

import pytest
import reference_systems

from ad3d_jax.systems import SYSTEMS, Entry, build, check_field, entry_of, field_words

MODULE = """
from __future__ import annotations

from dataclasses import dataclass

from reference_systems import bank, restorer

from ad3d_jax.base import System
from ad3d_jax.systems import Entry

CALLED = []

@dataclass(frozen=True)
class Config:
    steps: int = 6

WHOLE = Entry(Config, lambda config: bank(config.steps), {"learning_rate": 1e-3})
NUMBER = 3

def silent(steps=3):
    CALLED.append(steps)

def asks(steps) -> System:
    return bank(steps)

def takes_all(**more) -> System:
    return bank(**more)

def unknown() -> Sytsem:
    return bank()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Returns the name of a module that is found by Python alone."""
    (tmp_path / "outside_entry.py").write_text(MODULE)
    (tmp_path / "broken_entry.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield "outside_entry"
    sys.modules.pop("outside_entry", None)


def test_the_parameters_of_a_function_are_the_fields_of_the_model():
    name = "reference_systems:restorer"
    assert vars(entry_of(name).config()) == {"steps": 120, "width": 2}
    assert build(name, {"steps": 3}).phases[0].steps == 3
    assert build(name, {}).name == reference_systems.restorer().name
    with pytest.raises(ValueError, match="model.stesp: no such field; did you mean"):
        build(name, {"stesp": 3})
    with pytest.raises(ValueError, match="model.steps: expected int, found 'x'"):
        build(name, {"steps": "x"})
    check_field(name, "width", -1)  # nothing is said of what it may hold
    assert field_words(name, "width") == ""


def test_an_entry_is_taken_as_it_is(module):
    found = entry_of(f"{module}:WHOLE")
    assert isinstance(found, Entry) and found.hyper == {"learning_rate": 1e-3}
    assert build(f"{module}:WHOLE", {"steps": 4}).phases[0].steps == 4


def test_a_name_without_a_module_is_a_row():
    assert entry_of("draem") is SYSTEMS["draem"]
    with pytest.raises(ValueError, match="unknown name 'drem'; did you mean 'draem'"):
        entry_of("drem")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:x", "system: no_such_module: ModuleNotFoundError"),
        ("broken_entry:x", "system: broken_entry: ZeroDivisionError"),
        (":x", "system: : ValueError"),
        ("{}:NOTHING", "found nothing of that name"),
        ("{}:NUMBER", "expected an Entry, or a function .* found int"),
        ("{}:silent", "annotated to return a System .* found function"),
        ("{}:unknown", "annotated to return a System .* found function"),
        ("{}:asks", "expected parameters with names and defaults, found steps"),
        ("{}:takes_all", r"names and defaults, found \*\*more"),
        ("timeit:timeit", "annotated to return a System"),
    ],
)
def test_what_names_no_system_is_refused_and_not_called(module, name, words):
    with pytest.raises(ValueError, match=words):
        entry_of(name.format(module))
    if module in sys.modules:
        assert sys.modules[module].CALLED == []
