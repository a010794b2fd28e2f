"""A folder that is complete or absent: it gets its name when all is written."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import logging

from data_pipelines.errors import DatasetError, DiskFullError
from data_pipelines.prepared import MANIFEST


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into that becomes `folder` if all goes well."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        unfinished.mkdir()
        yield unfinished
        if not (folder / MANIFEST).is_file():  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(
                f"no space is left in {folder.parent}; nothing was kept of what was "
                "being written"
            ) from error
        raise DatasetError(f"{folder.parent}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    for path in folder.parent.glob(f".{folder.name}.*.unfinished"):
        process = int(path.name.split(".")[-2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            logging.warning("removing %s, left by a run that was ended", path)
            shutil.rmtree(path, ignore_errors=True)
        except PermissionError:
            pass
