"""Locks on open files, which the system drops with the process that holds them."""

import errno
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where what was fitted elsewhere can be used
    fcntl = None


def take(file: Any) -> None:
    """Locks an open file or folder, by its number too, for this process alone.

    Raises:
        BlockingIOError: another process holds it.
        OSError: there are no locks, on this system or on the file system.
    """
    if fcntl is None:
        raise OSError(
            errno.ENOLCK,
            "this system has no fcntl; fit on Linux or macOS, on Windows within WSL",
        )
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
