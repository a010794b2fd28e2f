"""How a command ends: one sentence for a mistake, and an exit status."""

import errno
import sys
from collections.abc import Callable

from absl import logging

from ad3d_jax.fit.fit import Preempted
from data_pipelines.errors import DiskFullError

DONE = 0
MISTAKE = 1
USAGE = 2  # of a flag
DISK_FULL = 3
PREEMPTED = 75  # asked to stop while it worked; the same command goes on from there


class Stopped(Exception):  # noqa: N818 (an interruption is no error)
    """The process was asked to stop; the same command goes on from there."""


def status_of(command: Callable[[], object]) -> int:
    """Runs a command and returns its exit status; says why where that is not 0.

    A number that the command returns is its status. What is no mistake of the user
    keeps its trace.
    """
    try:
        status = command()
    except (Preempted, Stopped) as stopped:
        logging.warning("%s; start the same command again to go on", stopped)
        return PREEMPTED
    except OSError as error:
        if disk_is_full(error):
            return refuse(f"no space is left: {error.filename or error}", DISK_FULL)
        if error.filename is None:
            raise
        return refuse(f"{error.filename}: {error.strerror}", MISTAKE)
    except DiskFullError as full:
        return refuse(str(full), DISK_FULL)
    except ValueError as mistake:
        return refuse(str(mistake), MISTAKE)
    except ImportError as missing:
        if missing.name:  # Python's own, not our sentence on an optional package
            raise
        return refuse(str(missing), MISTAKE)
    return status if isinstance(status, int) else DONE


def refuse(sentence: str, status: int) -> int:
    """Writes the sentence to the error stream and returns the exit status."""
    sys.stderr.write(f"error: {sentence}\n")
    return status


def disk_is_full(error: BaseException | None) -> bool:
    """Returns whether an error, or what caused it, is that no space is left."""
    while error is not None:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(error, DiskFullError) or "ENOSPC" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
