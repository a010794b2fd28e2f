"""How near ours comes to public code: records of tests, and the table made of them.

A test that compares with public code says so to the fixture `parity`. Records of a run
make docs/parity.md:

    pytest -m "slow or not slow" --parity=records.jsonl
    python tests/parity.py records.jsonl

A test of the documentation fails where a test has no row, or a row no test.
"""

import argparse
import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "results" / "parity.json"
PAGE = ROOT / "docs" / "parity.md"
HEAD = """# Parity with public code

What was compared with which public code, on the same weights and inputs, and the
largest difference over the largest value of the public code. This page is made of the
tests' own records ([contributing](../CONTRIBUTING.md)). How the public outputs were
made stands in `tests/golden/README.md`, where ours differs on purpose in the
[cards](README.md#compare-systems).

| system | public code | compared | largest difference | test |
|---|---|---|---|---|
"""


class Record(NamedTuple):
    """One comparison; several of one test and one `what` count as their largest."""

    system: str
    source: str  # repository and commit, or package and version
    what: str
    test: str  # file::function
    difference: float


def largest_difference(found, expected) -> float:
    """Returns the largest difference over the largest expected value."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def merged(records: list[Record]) -> list[Record]:
    """Returns one record for each comparison, sorted."""
    whole: dict[tuple, float] = {}
    for *key, difference in records:
        key = tuple(key)
        whole[key] = max(difference, whole.get(key, 0.0))
    return sorted(Record(*key, difference) for key, difference in whole.items())


def page(records: list[Record]) -> str:
    """Returns the text of docs/parity.md."""
    rows = [
        f"| {r.system} | {r.source} | {r.what} | {r.difference:.0e} | `{r.test}` |\n"
        for r in merged(records)
    ]
    return HEAD + "".join(rows)


def read(file: Path) -> list[Record]:
    """Returns the records of docs/results/parity.json."""
    return [Record(**row) for row in json.loads(file.read_text(encoding="utf-8"))]


def tests_that_compare(folder: Path) -> Iterator[str]:
    """Yields file::function of each test that takes the fixture `parity`."""
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            names = {argument.arg for argument in node.args.args}
            if node.name.startswith("test_") and "parity" in names:
                yield f"{path.relative_to(folder.parent).as_posix()}::{node.name}"


def main() -> None:
    """Puts the records of a run in place of those of the same tests."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("records", type=Path, help="written by pytest --parity=FILE")
    lines = parser.parse_args().records.read_text(encoding="utf-8").splitlines()
    new = [Record(**json.loads(line)) for line in lines]
    again = {record.test for record in new}
    there = set(tests_that_compare(ROOT / "tests"))
    old = read(RECORDS) if RECORDS.exists() else []
    kept = [r for r in old if r.test in there and r.test not in again]
    rows = merged(kept + new)
    text = json.dumps([row._asdict() for row in rows], indent=1)
    RECORDS.write_text(f"{text}\n", encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
