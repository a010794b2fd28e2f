import errno
import sqlite3

import pytest

from ad3d_jax.workdir import disk
from ad3d_jax.workdir.disk import DiskFullError


def with_cause(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        DiskFullError("f: full"),
        with_cause(ValueError("saving failed"), FULL),
        with_cause(ValueError("x"), with_cause(RuntimeError("y"), FULL)),
        # As TensorFlow, tensorstore and SQLite say it, without a number.
        RuntimeError("Failed to write f; No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: error writing [OS error 28: ENOSPC]"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_a_full_disk_is_recognised_and_the_place_named(error):
    assert disk.is_full(error)
    with pytest.raises(OSError) as caught, disk.writing("place"):
        raise error
    told = "f: full" if isinstance(error, DiskFullError) else disk.sentence("place")
    assert isinstance(caught.value, DiskFullError) and str(caught.value) == told


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "f"),
        ValueError("expected at least 1"),
        with_cause(ValueError("damaged"), OSError(errno.EIO, "Input/output error")),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_stay_as_they_are(error):
    assert not disk.is_full(error)
    with pytest.raises(type(error)) as caught, disk.writing("place"):
        raise error
    assert caught.value is error


def test_what_the_kernel_says_of_a_full_device_is_recognised():
    with pytest.raises(DiskFullError, match="^/dev/full: no space is left.*make space"):
        with disk.writing("/dev/full"), open("/dev/full", "wb") as device:
            device.write(b"x")
    with pytest.raises(DiskFullError, match="^/dev/full"):
        with disk.writing("/dev/full"), open("/dev/full", "w") as device:
            device.write("x")
            device.flush()
