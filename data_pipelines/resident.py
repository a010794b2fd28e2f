"""Reads a whole preprocessed class into memory; needs NumPy alone for `npz` files."""

import copy
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ad3d_jax.base import Batch
from data_pipelines.order import endless_batches, ordered_batches, own_rows
from data_pipelines.prepared import Prepared, damaged, to_batch


class Resident:
    """A `base.Dataset` over arrays in memory; splits are read when first asked for."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared
        self._splits: dict[str, dict[str, np.ndarray]] = {}
        self._chosen: dict[str, np.ndarray] = {}
        self._share: tuple[int, int] | None = None

    def only(self, split: str, numbers: np.ndarray) -> "Resident":
        """Returns a view with some samples of a split alone; the arrays are shared.

        Args:
            split: of the class.
            numbers: [n] of samples, in the order of this reader's split.
        """
        view = copy.copy(self)
        view._chosen = {**self._chosen, split: self._numbers(split)[numbers]}
        return view

    def share(self, process: int, processes: int) -> "Resident":
        """Returns a view whose batches hold the pixels of a process's own rows alone.

        Zeros stand in the other rows; the numbers of all rows are there.
        """
        view = copy.copy(self)
        view._share = process, processes
        return view

    def size(self, split: str) -> int:
        """Returns the number of samples of a split."""
        return len(self._numbers(split))

    def _numbers(self, split: str) -> np.ndarray:
        if split in self._chosen:
            return self._chosen[split]
        return np.arange(len(self._prepared.rows(split)))

    def endless(self, split: str, batch_size: int, seed: int, start: int):
        """Yields full batches for ever, see `base.Dataset.endless`."""
        for numbers in endless_batches(self.size(split), batch_size, seed, start):
            yield self._batch(split, numbers, batch_size)

    def ordered(self, split: str, batch_size: int, start: int):
        """Yields each sample once, see `base.Dataset.ordered`."""
        for numbers in ordered_batches(self.size(split), batch_size, start):
            yield self._batch(split, numbers, batch_size)

    def _batch(self, split: str, numbers: np.ndarray, batch_size: int) -> Batch:
        rows, numbers = self._prepared.rows(split), self._numbers(split)[numbers]
        if split not in self._splits:
            self._splits[split] = _read(self._prepared, split)
        own = None if self._share is None else own_rows(batch_size, *self._share)
        read = numbers if own is None else numbers[own]
        arrays = {name: a[read] for name, a in self._splits[split].items()}
        chosen = [rows[number] for number in numbers]
        return to_batch(self._prepared, chosen, arrays, batch_size, own)


def load_resident(prepared: Prepared) -> Resident:
    """Returns a reader that keeps the class in memory.

    Raises:
        DatasetError: (when a split is read) a shard is damaged or samples are missing.
    """
    return Resident(prepared)


def _read(prepared: Prepared, split: str) -> dict[str, np.ndarray]:
    expected = len(prepared.rows(split))
    if prepared.manifest["format"] == "tfds":
        from data_pipelines.stream import read_arrays

        return read_arrays(prepared, split)
    paths = [prepared.folder / name for name in prepared.manifest["shards"][split]]
    parts = [_read_npz(path) for path in paths]
    found = sum(len(part["rgb"]) for part in parts)
    if found != expected:
        raise damaged(paths[0], f"expected {expected} samples, found {found}")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, error) from error
