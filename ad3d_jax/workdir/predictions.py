"""The rows of a prediction, which are in scores.csv as soon as they are known."""

import csv
import math
import os
from pathlib import Path
from typing import NamedTuple

from ad3d_jax.workdir.csv_files import as_csv, text_of, write_csv
from ad3d_jax.workdir.disk import writing
from ad3d_jax.workdir.unreadable import reading

END = b"\r\n"  # of a line that is whole


class Prediction(NamedTuple):
    """What is said of a sample, a line of scores.csv."""

    name: str
    score: float = math.nan  # NaN: it could not be scored, see `error`
    p_value: float = math.nan  # NaN: nothing was calibrated
    verdict: str = ""  # good | defective; "" where none can be given
    boxes: str = ""  # "top left bottom right; …": pixels of the picture, ends exclusive
    seconds: float = math.nan  # to score it, compilation excluded
    error: str = ""  # why it could not be scored
    sha256: str = ""  # of its files


class Predictions:
    """The rows of a file, by name: one for each sample.

    A line that a killed process left half is not a row.
    """

    def __init__(self, path: Path):
        """Reads what is there; a file that is not is begun.

        Raises:
            DiskFullError: no space is left.
            UnreadableError: there is a file, and it is damaged or another table.
        """
        self._path, self._rows = path, {}
        if not path.exists():
            return self._write_all()
        with reading(path):
            content = path.read_bytes()
            whole = content[: content.rfind(END) + len(END)] if END in content else b""
            heads, *lines = [*csv.reader(whole.decode().splitlines())] or [()]
            if whole and tuple(heads) != Prediction._fields:
                raise ValueError(f"expected the columns {Prediction._fields}")
            rows = (_row(line) for line in lines)
            self._rows = {row.name: row for row in rows}
        if len(whole) < len(content):
            self._write_all()

    def __iter__(self):
        return iter(self._rows.values())

    def has(self, name: str, sha256: str) -> bool:
        """Returns whether there is a row of a sample with that content."""
        return name in self._rows and self._rows[name].sha256 == sha256

    def add(self, row: Prediction) -> None:
        """Writes a row: behind the others, or in the place of an older one.

        Raises:
            DiskFullError: no space is left.
        """
        again = row.name in self._rows
        self._rows[row.name] = row
        if again:
            return self._write_all()
        with writing(self._path), self._path.open("ab") as file:
            file.write(as_csv(_cells(row), ()).encode())
            file.flush()
            os.fsync(file.fileno())

    def _write_all(self) -> None:
        write_csv(self._path, Prediction._fields, map(_cells, self._rows.values()))


def _cells(row: Prediction) -> tuple[str, ...]:
    numbers = {"score": ".9g", "p_value": ".6g", "seconds": ".6g"}
    return tuple(
        ("" if math.isnan(value) else f"{value:{numbers[name]}}")
        if name in numbers
        else value
        for name, value in row._asdict().items()
    )


def _row(line: list[str]) -> Prediction:
    if len(line) != len(Prediction._fields):
        raise ValueError(f"expected {len(Prediction._fields)} cells, found {line}")
    found = Prediction(*map(text_of, line))
    return found._replace(
        **{
            name: float(getattr(found, name) or "nan")
            for name in ("score", "p_value", "seconds")
        }
    )
