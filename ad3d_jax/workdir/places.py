"""Places that a user names: files and folders of this machine."""

import os
import re
import tempfile
from pathlib import Path

# gs://bucket/run, and what pathlib makes of it; C:/ is a drive.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local(place: str | os.PathLike, what: str) -> Path:
    """Returns the path of a place on this machine, its ~ replaced.

    Args:
        place: as the user wrote it.
        what: it is, for the message: a field or an argument.

    Raises:
        ValueError: it is the address of another file system.
    """
    text = os.fspath(place)
    if ADDRESS.match(text):
        raise ValueError(
            f"{what}: expected a path of this machine, found the address {text!r}; "
            "mount it, or copy its content"
        )
    return Path(text).expanduser()


def writable(place: str | os.PathLike, what: str) -> Path:
    """Returns a local folder that can be written to; it is made if need be.

    Raises:
        ValueError: it is an address, a file, or cannot be made or written to.
    """
    folder = local(place, what)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{what} {folder}: expected a folder that can be written to, found: "
            f"{error.strerror}"
        ) from error
    return folder
