"""A folder that is complete or absent: it gets its name when all is written."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from absl import logging

from ad3d_jax.workdir import locks
from ad3d_jax.workdir.disk import DiskFullError, writing
from data_pipelines.errors import DatasetError
from data_pipelines.prepared import MANIFEST


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into that becomes `folder` if all goes well.

    Any number of processes may do so at once, in containers and with equal numbers,
    too: each writes a folder of its own, and the first that ends wins.
    """
    name = f".{folder.name}.{secrets.token_hex(8)}.unfinished"
    unfinished = folder.with_name(name)
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder)
            with _locked(unfinished):
                yield unfinished
                _take_place(unfinished, folder)
    except DiskFullError:
        raise
    except OSError as error:
        raise DatasetError(f"{folder.parent}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _take_place(unfinished: Path, folder: Path) -> None:
    if folder.exists() and not (folder / MANIFEST).is_file():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        unfinished.rename(folder)
    except OSError:
        if not (folder / MANIFEST).is_file():  # else another process was faster
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes a folder that is locked as long as this process lives.

    It is locked before it gets its name: nobody sees it without the lock, which the
    kernel drops with the process.
    """
    new = folder.with_suffix(".new")
    new.mkdir()
    place = os.open(new, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that does not lock: it is never removed
            locks.take(place)
        new.rename(folder)
        yield
    finally:
        os.close(place)


def _remove_abandoned(folder: Path) -> None:
    """Removes what runs that ended have left of their work on `folder`."""
    for path in folder.parent.glob(f".{folder.name}.*.unfinished"):
        with suppress(OSError):  # a live process holds it, or it has gone
            place = os.open(path, os.O_RDONLY)
            try:
                locks.take(place)
                logging.warning("removing %s, left by a run that was ended", path)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(place)
