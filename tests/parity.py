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
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "docs" / "results" / "parity.json"
PAGE = ROOT / "docs" / "parity.md"
HEAD = """# Parity with public code

Each row is a stage that a test compares with public code, on the same weights and
inputs: the largest difference over the largest value of the public code, of all
numbers that the test compares. *Equal* means no difference at all, and numbers are
float32 unless the row says float64. This page is made of the tests' own records
([contributing](../CONTRIBUTING.md)). How stored outputs of public code were made
stands in `tests/golden/README.md`, where ours differs on purpose in the
[cards](README.md#compare-systems).

| system | public code | compared | largest difference | test |
|---|---|---|---|---|
"""
FOOT = """
Rows below the systems are of parts that several of them share. DBRN
and DAS3D have no public code, and neither has M3DM-NR, a reconstruction: their rows,
where there are any, are of parts. Images of 8 bits that differ by one level differ by
4e-03. Figures of trained systems are in the [results](results/README.md).
"""
README = ROOT / "README.md"
# What several systems share, in the order of the table.
PARTS = (
    *("ResNet", "ViT", "Point-MAE", "Point-BERT", "anomaly synthesis"),
    *("images", "point clouds", "nearest neighbours", "metrics"),
)


class Record(NamedTuple):
    """One comparison; several of one test and one `what` count as their largest."""

    system: str
    source: str  # repository and commit, or package and version
    what: str
    test: str  # file::function
    difference: float


def package(module: ModuleType) -> str:
    """Returns the name and version of the package of a module."""
    name = metadata.packages_distributions()[module.__name__][0]
    return f"{name} {metadata.version(name).partition('+')[0]}"


def largest_difference(found, expected) -> float:
    """Returns the largest difference over the largest expected value.

    Raises:
        ValueError: shapes differ, or something is not finite.
    """
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    if found.shape != expected.shape:
        raise ValueError(f"expected shape {expected.shape}, found {found.shape}")
    difference = np.abs(found - expected).max()
    if not np.isfinite(difference):
        raise ValueError(f"expected finite numbers, found a difference of {difference}")
    return float(difference and difference / np.abs(expected).max())


def merged(records: list[Record]) -> list[Record]:
    """Returns one record for each comparison, sorted."""
    whole: dict[tuple, float] = {}
    for *key, difference in records:
        key = tuple(key)
        whole[key] = max(difference, whole.get(key, 0.0))
    return sorted(Record(*key, difference) for key, difference in whole.items())


def systems() -> tuple[str, ...]:
    """Returns the names of the README's table of systems, in its order."""
    text = README.read_text(encoding="utf-8").partition("## Systems")[2]
    names = re.findall(r"^\| ([^|]+?) \| .*\[card\]", text, re.MULTILINE)
    return tuple(name.partition(",")[0] for name in names)


def linked(source: str) -> str:
    """Returns a repository with a link to it as it was, a package as it is."""
    name, version = source.split()
    if "/" not in name:
        return source
    return f"[{source}](https://github.com/{name}/tree/{version})"


def page(records: list[Record]) -> str:
    """Returns the text of docs/parity.md: a row for what was compared, in any tests.

    Raises:
        ValueError: a system is none of the README's and none of PARTS.
    """
    order, comparisons = (*systems(), *PARTS), {}
    for record in merged(records):
        comparisons.setdefault(record[:3], []).append(record)
    strangers = {system for system, _, _ in comparisons} - set(order)
    if strangers:
        raise ValueError(f"expected names among {order}, found {sorted(strangers)}")
    rows, above = [], ("", "")
    for key in sorted(comparisons, key=lambda key: (order.index(key[0]), key)):
        system, source, what = key
        begins = "" if system == above[0] else system
        public = "" if (system, source) == above else linked(source)
        above = system, source
        largest = max(record.difference for record in comparisons[key])
        size = f"{largest:.0e}" if largest else "equal"
        tests = "; ".join(shown(record.test) for record in comparisons[key])
        rows.append(f"| {begins} | {public} | {what} | {size} | {tests} |\n")
    return HEAD + "".join(rows) + FOOT


def shown(test: str) -> str:
    """Returns the words of a test's name with a link to its file."""
    file, _, function = test.partition("::")
    return f"[{function.removeprefix('test_').replace('_', ' ')}](../{file})"


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
