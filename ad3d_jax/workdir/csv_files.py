"""CSV files: a table written whole, with names that no spreadsheet takes for more.

A text that a spreadsheet would compute, such as `=1+1`, has an apostrophe before it;
line breaks and what is no UTF-8 are written as `\\u` and four digits, and a backslash
is doubled. `text_of` undoes all of it.
"""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ad3d_jax.workdir.atomic import write_text

_FORMULA = re.compile(r"'*[=+\-@]")  # how a text begins that may be computed
_ODD = re.compile(r"[\\\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(\\|u[0-9a-f]{4})")


def write_csv(
    path: str | Path, heads: Iterable[str], lines: Iterable[Iterable[Any]]
) -> None:
    """Writes a table as CSV, whole or not at all."""
    write_text(path, as_csv(heads, lines))


def as_csv(
    heads: Iterable[str], lines: Iterable[Iterable[Any]], end: str = "\r\n"
) -> str:
    """Returns a table as CSV; lines end with `end`."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=end)
    writer.writerows([cell(value) for value in line] for line in (heads, *lines))
    return file.getvalue()


def cell(value: Any) -> Any:
    """Returns a value as it is written; numbers, as texts too, stay as they are."""
    if not isinstance(value, str) or _is_number(value):
        return value
    text = _ODD.sub(_escaped, value)
    return f"'{text}" if _FORMULA.match(text) else text


def text_of(cell: str) -> str:
    """Returns the text that a cell was made of."""
    if cell.startswith("'") and _FORMULA.match(cell):
        cell = cell[1:]
    return _ESCAPE.sub(_plain, cell)


def _escaped(found: re.Match) -> str:
    return r"\\" if found[0] == "\\" else rf"\u{ord(found[0]):04x}"


def _plain(found: re.Match) -> str:
    return "\\" if found[1] == "\\" else chr(int(found[1][1:], 16))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip() == text
