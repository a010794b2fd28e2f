"""The samples of a split and their scores: scores.csv."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ad3d_jax.base import MATCH
from ad3d_jax.workdir.csv_files import text_of, write_csv
from ad3d_jax.workdir.names import sample_name
from ad3d_jax.workdir.unreadable import reading, reading_part

Box = tuple[int, int, int, int]  # top, left, bottom, right; pixels, ends exclusive
VERDICTS = ("good", "defective")


class Row(NamedTuple):
    """A sample and its score, a line of scores.csv; rows are in manifest order."""

    category: str
    defect: str
    stem: str
    id: int
    label: int  # 1 = anomalous
    score: float = math.nan  # NaN: not scored
    seconds: float = math.nan  # wall time; NaN: not measured
    p_value: float = math.nan  # NaN: nothing was calibrated
    verdict: str = ""  # good | defective; "" where none can be given
    boxes: tuple[Box, ...] = ()  # around what is flagged in the map
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
        (
            *row[:5],
            f"{row.score:.9g}",
            f"{row.seconds:.6g}",
            "" if math.isnan(row.p_value) else f"{row.p_value:.6g}",
            row.verdict,
            boxes_text(row.boxes),
            *row.match,
        )
        for row in rows
    )
    write_csv(path, heads, lines)


def boxes_text(boxes: Iterable[Sequence[int]]) -> str:
    """Returns boxes as a cell holds them: "top left bottom right; …"."""
    return "; ".join(" ".join(str(side) for side in box[:4]) for box in boxes)


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
        p_value=_number(line.get("p_value") or ""),
        verdict=_verdict(line.get("verdict") or ""),
        boxes=_boxes(line.get("boxes") or ""),
        match=tuple(int(line[name]) for name in MATCH) if MATCH[0] in line else (),
    )


def _number(text: str) -> float:
    return float(text.strip() or "nan")


def _verdict(text: str) -> str:
    if text not in ("", *VERDICTS):
        raise ValueError(f"expected verdict good or defective, found {text!r}")
    return text


def _boxes(text: str) -> tuple[Box, ...]:
    boxes = [tuple(map(int, box.split())) for box in text.split(";") if box.strip()]
    if any(len(box) != 4 for box in boxes):
        raise ValueError(f"expected boxes of four sides, found {text!r}")
    return tuple(boxes)
