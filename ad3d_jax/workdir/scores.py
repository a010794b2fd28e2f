"""The samples of a split and their scores: scores.csv."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ad3d_jax.base import MATCH
from ad3d_jax.workdir.csv_files import text_of, write_csv
from ad3d_jax.workdir.names import sample_name
from ad3d_jax.workdir.unreadable import reading, reading_part


class Row(NamedTuple):
    """A sample and its score, a line of scores.csv; rows are in manifest order."""

    category: str
    defect: str
    stem: str
    id: int
    label: int  # 1 = anomalous
    score: float = math.nan  # NaN: not scored
    seconds: float = math.nan  # wall time; NaN: not measured
    match: tuple[int, ...] = ()  # see base.MATCH; () where the system does not say

    @property
    def name(self) -> str:
        """Returns what the files of the sample are called, less their ending."""
        return sample_name(self.defect, self.stem)


def write_scores(path: str | Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV; the columns of `base.MATCH` follow where there are matches.

    OSError if the file cannot be written.
    """
    heads = (*Row._fields[:-1], *MATCH[: max((len(r.match) for r in rows), default=0)])
    lines = (
        (*row[:5], f"{row.score:.9g}", f"{row.seconds:.6g}", *row.match) for row in rows
    )
    write_csv(path, heads, lines)


def read_scores(path: str | Path, left_out: list[str] | None = None) -> list[Row]:
    """Returns the rows in the order of the file.

    Args:
        path: the file.
        left_out: gets a sentence for each line that is damaged; None = that is an
            error.

    Raises:
        UnreadableError: the file is missing or damaged.
    """
    rows: list[Row] = []
    with reading(path), Path(path).open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            with reading_part(f"line {number}", left_out):
                rows.append(_row(line))
    return rows


def _row(line: dict[str, str]) -> Row:
    if None in line.values():
        raise ValueError("the line is cut short")
    if line["label"] not in ("0", "1"):
        raise ValueError(f"expected label 0 or 1, found {line['label']!r}")
    return Row(
        category=text_of(line["category"]),
        defect=text_of(line["defect"]),
        stem=text_of(line["stem"]),
        id=int(line["id"]),
        label=int(line["label"]),
        score=_number(line["score"]),
        seconds=_number(line.get("seconds", "")),
        match=tuple(int(line[name]) for name in MATCH) if MATCH[0] in line else (),
    )


def _number(text: str) -> float:
    return float(text.strip() or "nan")
