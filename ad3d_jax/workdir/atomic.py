"""The one way to write a file: whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ad3d_jax.workdir.disk import writing

UNFINISHED = ".partial"  # how the name of a file ends that is not yet whole


@contextlib.contextmanager
def open_whole(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Gives a binary file to write, which takes the place of `path` at the end.

    Until then, and where the block fails or the process dies, an earlier file stays as
    it was. Any number of processes and threads may write the same path: each writes a
    file of its own, and the one that ends last wins.

    Raises:
        OSError: the folder is missing or cannot be written to.
        DiskFullError: no space is left; it names `path`.
    """
    path = Path(path)
    # The name is not made from the path's, which may be as long as a name can be.
    unfinished = path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")
    try:
        with writing(path):
            with unfinished.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes bytes whole or not at all; see `open_whole`."""
    with open_whole(path) as file:
        file.write(content)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes text as UTF-8, whole or not at all; see `open_whole`."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a folder to write into, which takes the place of `path` at the end.

    Until then, and where the block fails, an earlier folder stays as it was. Where the
    process dies between the two renames at the end, both lie beside `path`, under names
    that end in UNFINISHED.

    Raises:
        OSError: the folder above it is missing or cannot be written to.
        DiskFullError: no space is left; it names `path`.
    """
    path = Path(path)
    new, earlier = (
        path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}") for _ in range(2)
    )
    try:
        with writing(path):
            new.mkdir()
            yield new
            if path.exists():
                path.rename(earlier)
            new.rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(earlier, ignore_errors=True)
