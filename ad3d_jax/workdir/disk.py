"""A disk without space: how it is recognised, and what is said of it."""

import contextlib
import errno
import os
from collections.abc import Iterator

# A disk, a quota, the size that a file may have; and in words, of libraries that pass
# no numbers on: TensorFlow, tensorstore, SQLite.
_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = (*map(os.strerror, _NUMBERS), *("ENOSPC", "EDQUOT", "EFBIG"), "disk is full")


class DiskFullError(OSError):
    """No space is left where something was to be written; says where."""


def is_full(error: BaseException | None) -> bool:
    """Returns whether an error, or what it comes from, is that no space is left."""
    while error is not None:
        if isinstance(error, DiskFullError) or _tells(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def sentence(place: object) -> str:
    """Returns what is said where there is no space to write a file or folder."""
    return (
        f"{place}: no space is left to write it; make space and run the same command "
        "again: it goes on from what is whole"
    )


@contextlib.contextmanager
def writing(place: str | os.PathLike) -> Iterator[None]:
    """Makes a DiskFullError of a disk that fills up while a file or folder is written.

    All other errors pass, and so does a DiskFullError, which names its place already.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFullError(sentence(place)) from error


def _tells(error: BaseException) -> bool:
    number = getattr(error, "errno", None)
    return number in _NUMBERS or any(word in str(error) for word in _WORDS)
