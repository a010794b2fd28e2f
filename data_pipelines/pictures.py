"""Natural pictures for a pretraining: a folder of them, or procedural ones."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ad3d_jax.base import Batch, Dataset
from ad3d_jax.synthesis.textures import (
    find_pictures,
    procedural_textures,
    read_picture,
)
from data_pipelines.batches import assemble
from data_pipelines.errors import DatasetError
from data_pipelines.order import endless_batches, ordered_batches
from data_pipelines.samples import sample_id, sha256

SPLIT = "pictures"
THREADS = 4
AHEAD = 2  # batches that are decoded before they are asked for


class Picture(NamedTuple):
    """A picture and the number that seeds its keys."""

    rgb: np.ndarray  # [size,size,3] uint8
    id: int


class Pictures:
    """A `base.Dataset` of the single split "pictures" whose batches hold rgb alone."""

    def __init__(self, count: int, read: Callable[[int], Picture]):
        self._count, self._read = count, read

    def size(self, split: str) -> int:
        """Returns the number of pictures."""
        _check_split(split)
        return self._count

    def endless(self, split: str, batch_size: int, seed: int, start: int):
        """Yields full batches for ever, see `base.Dataset.endless`."""
        _check_split(split)
        numbers = endless_batches(self._count, batch_size, seed, start)
        return self._batches(numbers, batch_size)

    def ordered(self, split: str, batch_size: int, start: int):
        """Yields each picture once, see `base.Dataset.ordered`."""
        _check_split(split)
        numbers = ordered_batches(self._count, batch_size, start)
        return self._batches(numbers, batch_size)

    def _batches(
        self, numbers: Iterable[np.ndarray], batch_size: int
    ) -> Iterator[Batch]:
        with ThreadPoolExecutor(THREADS) as pool:

            def begin(batch: np.ndarray):
                return [pool.submit(self._read, int(number)) for number in batch]

            waiting = map(begin, numbers)
            begun = list(islice(waiting, AHEAD))
            while begun:
                pictures = [future.result() for future in begun.pop(0)]
                begun += islice(waiting, 1)
                arrays = {
                    "rgb": np.stack([picture.rgb for picture in pictures]),
                    "id": np.array([picture.id for picture in pictures], np.int32),
                }
                yield assemble(arrays, batch_size)


class Joined:
    """A `base.Dataset` of one class that has the split "pictures", too."""

    def __init__(self, samples: Dataset, pictures: Pictures):
        self._samples, self._pictures = samples, pictures

    def share(self, process: int, processes: int) -> "Joined":
        """Returns a view of which a process reads its own rows, but all pictures."""
        return Joined(self._samples.share(process, processes), self._pictures)

    def size(self, split: str) -> int:
        """Returns the number of samples of a split."""
        return self._of(split).size(split)

    def endless(self, split: str, batch_size: int, seed: int, start: int):
        """Yields full batches for ever, see `base.Dataset.endless`."""
        return self._of(split).endless(split, batch_size, seed, start)

    def ordered(self, split: str, batch_size: int, start: int):
        """Yields each sample once, see `base.Dataset.ordered`."""
        return self._of(split).ordered(split, batch_size, start)

    def _of(self, split: str) -> Dataset:
        return self._pictures if split == SPLIT else self._samples


def read_pictures(folder: str | Path, size: int) -> Pictures:
    """Returns the pictures below a folder, decoded when they are asked for.

    Args:
        folder: see `find_pictures`; the number of files is not limited.
        size: side that each is resized to, bilinear, pixels.

    Raises:
        ValueError: no such folder or no picture in it; (while iterating) a file that
            cannot be read.
    """
    files = find_pictures(Path(folder).expanduser())

    def read(number: int) -> Picture:
        file = files[number]
        return Picture(read_picture(file, size), sample_id(sha256(file)))

    return Pictures(len(files), read)


def make_pictures(key: jax.Array, count: int, size: int) -> Pictures:
    """Returns `count` procedural pictures, which stay in memory, see `synthesis`."""
    bank = np.asarray(
        jax.jit(procedural_textures, static_argnums=(1, 2))(key, count, size)
    )
    return Pictures(count, lambda number: Picture(bank[number], number))


def _check_split(split: str) -> None:
    if split != SPLIT:
        raise DatasetError(f"split: expected {SPLIT!r}, found {split!r}")
