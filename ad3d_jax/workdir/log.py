"""A log of one JSON object a line, which survives the death of its writer."""

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

from absl import logging

from ad3d_jax.workdir.disk import writing
from ad3d_jax.workdir.json_files import is_finite, to_json
from ad3d_jax.workdir.unreadable import reading, reading_part

_OWN = ("kind", "time", "non_finite")

ODD = "backslashreplace"  # a name that is no UTF-8 is escaped as JSON does it


class Log:
    """Appends lines `{"kind": …, "time": …, name: value, …}` to a file.

    `time` is in seconds since 1970. Each line is on disk when `write` returns; a last
    line that a killed run left half-written is cut off on opening. With `tensorboard`,
    a folder, finite numbers of lines with a `step` are written there too, tagged
    "kind/name"; that needs the package tensorboard (ImportError).
    """

    def __init__(self, path: str | Path, tensorboard: str | Path | None = None):
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._board = None if tensorboard is None else _open_board(tensorboard)
        _repair(self._path)
        self._file = self._path.open("a", encoding="utf-8", errors=ODD)

    def write(self, kind: str, **values: Any) -> None:
        """Appends a line.

        Args:
            kind: what the line tells of, such as "train".
            **values: numbers, text, arrays, and lists and dicts of these. NaN and
                infinities are written as null and their names listed in `non_finite`.

        Raises:
            ValueError: a name that the log uses itself.
            TypeError: a value that JSON has no form for.
            DiskFullError: no space is left; what was written of the line is cut off
                when the log is opened again.
        """
        taken = [name for name in _OWN if name in values]
        if taken:
            raise ValueError(f"{self._path}: the log itself writes {taken}")
        line = {"kind": kind, "time": round(time.time(), 3)}
        line |= {name: to_json(value) for name, value in values.items()}
        non_finite = [name for name, value in values.items() if not is_finite(value)]
        if non_finite:
            line["non_finite"] = non_finite
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        with writing(self._path):
            self._file.write(text)
            self._file.flush()
            if self._board is not None and "step" in values:
                self._write_board(kind, line)

    def close(self) -> None:
        """Closes the file."""
        with writing(self._path):  # what a full disk has not taken is tried again
            self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _write_board(self, kind: str, line: dict) -> None:
        for name, value in line.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and name not in ("step", "time"):
                self._board.add_scalar(f"{kind}/{name}", value, line["step"])
        self._board.flush()


def read_log(
    path: str | Path, left_out: list[str] | None = None
) -> list[dict[str, Any]]:
    """Returns the records of a log in order.

    A last line without its end, which a killed run leaves, is no record.

    Args:
        path: the file.
        left_out: gets a sentence for each line that is no record, the last one
            included; None = a line that is none, but for the last one, is an error.

    Raises:
        UnreadableError: the file is missing or damaged.
    """
    records: list[dict[str, Any]] = []
    with reading(path):
        *lines, rest = Path(path).read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            with reading_part(f"line {number}", left_out):
                records.append(_record(line))
    if rest and left_out is not None:
        left_out.append(f"line {len(lines) + 1}: half-written")
    return records


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict) or "kind" not in record:
        raise ValueError("expected a JSON object with a field kind")
    return record


def _repair(path: Path) -> None:
    """Cuts off a last line without its end."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        logging.warning(
            "%s: cutting off %d bytes of a half-written last line",
            path,
            len(content) - whole,
        )
        with path.open("r+b") as file:
            file.truncate(whole)


def check_tensorboard() -> None:
    """Raises ImportError where the package tensorboard is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "the TensorBoard log needs the package tensorboard: pip install "
            "'ad3d_jax[tensorboard]'; without it, leave the option off: the log has "
            "the same values"
        )


def _open_board(folder: str | Path) -> Any:
    check_tensorboard()
    from tensorboard.summary import Writer

    return Writer(str(folder))
