"""docs/parity.md is what the tests measured, all of them and nothing else."""

from pathlib import Path

import numpy as np
import parity as records
import pytest


def test_the_page_is_made_of_the_records():
    assert records.PAGE.read_text(encoding="utf-8") == records.page(
        records.read(records.RECORDS)
    )


def test_each_test_that_compares_has_a_row_and_each_row_a_test():
    there = set(records.tests_that_compare(Path(__file__).parent))
    assert there == {record.test for record in records.read(records.RECORDS)}


def test_several_records_of_one_comparison_are_their_largest():
    def record(what, difference):
        source = "owner/name 1234567"
        return records.Record("DSR", source, what, "tests/t.py::test_a_b", difference)

    found = records.merged([record("map", 1e-7), record("map", 3e-6), record("x", 0.0)])
    assert found == [record("map", 3e-6), record("x", 0.0)]
    source = "[owner/name 1234567](https://github.com/owner/name/tree/1234567)"
    first = f"| DSR | {source} | map | 3e-06 | [a b](../tests/t.py) |"
    second = "|  |  | x | equal | [a b](../tests/t.py) |"
    assert f"{first}\n{second}\n" in records.page(found)
    other = record("x", 2e-4)._replace(test="tests/u.py::test_c")
    both = "|  |  | x | 2e-04 | [a b](../tests/t.py); [c](../tests/u.py) |"
    assert f"{first}\n{both}\n" in records.page([*found, other])


def test_a_system_that_the_readme_does_not_name_is_told():
    record = records.Record("banks", "a/b 1", "map", "tests/t.py::test_t", 0.0)
    with pytest.raises(ValueError, match="PatchCore.*found .'banks'"):
        records.page([record])
    assert records.systems()[:2] == ("DBRN", "EasyNet") and len(records.systems()) > 12


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        ([1, 2], [1, 2], 0),
        ([0, 0], [0, 0], 0),
        ([3, 1], [4, 1], 0.25),
        (True, False, np.inf),
    ],
)
def test_a_difference_is_of_the_largest_expected_value(found, expected, difference):
    with np.errstate(divide="ignore"):
        assert records.largest_difference(found, expected) == difference


@pytest.mark.parametrize("found", [[1, 2, 3], [np.nan, 2], [np.inf, 2]])
def test_what_cannot_be_compared_is_refused(found):
    with pytest.raises(ValueError, match="expected"):
        records.largest_difference(found, [1, 2])
