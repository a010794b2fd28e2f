"""Reads a whole preprocessed class into memory; needs NumPy alone for `npz` files."""

import tokenize
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from data_pipelines.arrangements import SPLITS
from data_pipelines.prepared import Prepared, damaged
from data_pipelines.reader import Held, Opener, Reader

# What NumPy raises where a file is damaged; it reads headers as Python's literals.
DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError),
)


def load_resident(prepared: Prepared) -> Reader:
    """Returns a reader that keeps a class in memory, see `openers`."""
    return Reader(openers(prepared))


def openers(prepared: Prepared) -> dict[str, Opener]:
    """Returns what opens the splits of a class, by reading them into memory.

    Raises:
        DatasetError: (when a split is opened) a shard is damaged or samples
            are missing.
    """
    return {split: partial(_held, prepared, split) for split in SPLITS}


def _held(prepared: Prepared, split: str) -> Held:
    return Held(_read(prepared, split), prepared.facts(split))


def _read(prepared: Prepared, split: str) -> dict[str, np.ndarray]:
    expected = len(prepared.rows(split))
    if prepared.manifest["format"] == "tfds":
        from data_pipelines.stream import Shards

        return Shards(prepared, split).read(np.arange(expected))
    paths = [
        prepared.folder / name for name in prepared.manifest["shards"].get(split, [])
    ]
    if not paths:
        return {}
    parts = [_read_npz(path) for path in paths]
    found = sum(len(part["mask"]) for part in parts)
    if found != expected:
        raise damaged(paths[0], f"expected {expected} samples, found {found}")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DAMAGE as error:
        raise damaged(path, error) from error
