"""docs/parity.md is what the tests measured, all of them and nothing else."""

from pathlib import Path

import parity as records


def test_the_page_is_made_of_the_records():
    assert records.PAGE.read_text(encoding="utf-8") == records.page(
        records.read(records.RECORDS)
    )


def test_each_test_that_compares_has_a_row_and_each_row_a_test():
    there = set(records.tests_that_compare(Path(__file__).parent))
    assert there == {record.test for record in records.read(records.RECORDS)}


def test_several_records_of_one_comparison_are_their_largest():
    def record(what, difference):
        return records.Record("a", "b", what, "tests/t.py::test_t", difference)

    found = records.merged([record("map", 1e-7), record("map", 3e-6), record("x", 0.0)])
    assert found == [record("map", 3e-6), record("x", 0.0)]
    assert "| map | 3e-06 | `tests/t.py::test_t` |" in records.page(found)
