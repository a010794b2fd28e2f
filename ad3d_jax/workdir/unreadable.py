"""Files that are missing or damaged, in sentences."""

import contextlib
import csv
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

# What readers raise where a file is damaged; zipfile raises RuntimeError, too, and a
# file that claims to hold more than there is memory for ends in MemoryError.
_FAULTS = (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError)
_FAULTS += (csv.Error, zipfile.BadZipFile, zlib.error)
_LONGEST = 160  # characters of a reason


class UnreadableError(ValueError):
    """A file is missing or damaged; says which one and why.

    `reason` is the why alone, a few words without a full stop.
    """

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@contextlib.contextmanager
def reading(path: str | Path, hint: str = "") -> Iterator[None]:
    """Makes an UnreadableError of whatever goes wrong while a file is read.

    Args:
        path: the file.
        hint: what to do where it is missing, such as "name a finished run".
    """
    try:
        yield
    except FileNotFoundError as error:
        more = f"; {hint}" if hint else ""
        raise UnreadableError(path, in_words(error) + more) from None
    except _FAULTS as error:
        raise UnreadableError(path, in_words(error)) from error


@contextlib.contextmanager
def reading_part(place: str, left_out: list[str] | None) -> Iterator[None]:
    """Reads a part of a file that may be left out, within `reading`.

    Args:
        place: which part, such as "line 3".
        left_out: gets "place: reason" where the part is damaged; None = that is an
            error of the whole file.
    """
    try:
        yield
    except _FAULTS as error:
        fault = f"{place}: {in_words(error)}"
        if left_out is None:
            raise ValueError(fault) from error
        left_out.append(fault)


def in_words(error: Exception) -> str:
    """Returns what went wrong in a few words, on one line."""
    if isinstance(error, UnreadableError):
        return error.reason
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r} in it"
    text = " ".join(str(error).split())[:_LONGEST].rstrip(".")
    return text or type(error).__name__
