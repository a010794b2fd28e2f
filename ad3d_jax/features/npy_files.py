"""What NumPy saved, npz archives and folders of npy, checked before it is read."""

import io
import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

FILES_LIMIT = 10_000  # in a folder; networks have hundreds of tensors
# What NumPy's reading of a header, which is a Python literal, can end in.
HEADER_ERRORS = (
    *(ValueError, TypeError, SyntaxError, tokenize.TokenError),
    *(RecursionError, MemoryError),
)


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz archive by name.

    Args:
        data: the whole file.

    Raises:
        ValueError: it is no such archive, or a member is not an array of numbers as
            large as its header says.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                _check_suffix(member.filename)
                with archive.open(member) as file:
                    _check_size(file, member.filename, member.file_size)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"expected an npz archive, found: {error}") from error


def plain_files(folder: Path) -> list[Path]:
    """Returns the files of a folder, sorted by name.

    Raises:
        ValueError: there is none, more than 10,000, or anything but plain files.
    """
    files = sorted(folder.iterdir())
    if not 0 < len(files) <= FILES_LIMIT:
        raise ValueError(
            f"{folder}: expected 1 to {FILES_LIMIT} .npy files, found {len(files)}"
        )
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise ValueError(f"{file}: expected a plain file, found a link or a folder")
    return files


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a folder of npy files.

    Args:
        folder: holds plain `.npy` files alone; "/" stands for each dot of a name.

    Raises:
        ValueError: there is none, a link, a folder or another kind of file, more than
            10,000 files, or a file is not an array of numbers as
            large as its header says. The message names the file.
    """
    files = plain_files(folder)
    try:
        # All are checked before the first is read.
        for file in files:
            _check_suffix(file.name)
            with open(file, "rb") as opened:
                _check_size(opened, file.name, os.fstat(opened.fileno()).st_size)
        return {_name(file): np.load(file, allow_pickle=False) for file in files}
    except (EOFError, ValueError) as error:
        raise ValueError(f"{folder}: {error}") from error


def _name(file: Path) -> str:
    return file.name.removesuffix(".npy").replace(".", "/")


def _check_suffix(name: str) -> None:
    if not name.endswith(".npy"):
        raise ValueError(f"expected arrays as .npy alone, found {name!r}")


def _check_size(file: BinaryIO, name: str, size: int) -> None:
    """Raises a ValueError unless a file is an array as large as its header says."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError("expected npy 1.0 or 2.0")
        shape, _, dtype = readers[version](file)
    except HEADER_ERRORS as error:
        raise ValueError(f"{name}: {error}") from error
    if dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected numbers, found an array of dtype {dtype}")
    needed = file.tell() + math.prod(shape) * dtype.itemsize
    if needed != size:
        raise ValueError(
            f"{name}: expected {needed} bytes for {dtype} {list(shape)}, found {size}"
        )
