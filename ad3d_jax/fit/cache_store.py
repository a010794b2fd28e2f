"""Where frozen features are kept: in memory, or in a folder that outlives a kill.

Choices of rows are kept beside them, in memory alone: see `base.Select`.
"""

import shutil
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import jax
import numpy as np

from ad3d_jax.base import Tree
from ad3d_jax.devices import memory, processes
from ad3d_jax.fit.cache_keys import Key
from ad3d_jax.workdir.atomic import open_whole
from ad3d_jax.workdir.unreadable import reading

MEMORY_SHARE = 0.5  # of the host's memory that is free of them, for all features


class Store:
    """Features of samples, found by what they were computed of.

    Any number of fits may use one store, and any number of processes its folder, in
    which each feature of a sample is a file that is written whole or not at all.
    """

    def __init__(self, folder: str | PathLike | None = None, lasting: bool = False):
        """Begins with what the folder holds.

        Args:
            folder: of what memory has no room for; None = there is none.
            lasting: whether later fits will ask, so that what a single pass needs is
                kept, too.
        """
        self.lasting = lasting
        self.bytes = 0  # of memory that is held
        self._folder = None if folder is None else Path(folder)
        self._held: dict[Key, np.ndarray] = {}
        self._programs: set[str] = set()
        self._choices: dict[str, tuple[int, Tree]] = {}

    def __contains__(self, key: Key) -> bool:
        """Returns whether a feature of a sample is there."""
        return key in self._held or (
            self._folder is not None and self._file(key).exists()
        )

    def knows(self, program: str) -> bool:
        """Returns whether there may be features that a program has computed."""
        return program in self._programs or (
            self._folder is not None and (self._folder / program).exists()
        )

    def get(self, key: Key, like: jax.ShapeDtypeStruct) -> np.ndarray:
        """Returns a feature of a sample, as `like`.

        Raises:
            UnreadableError: its file is missing or damaged.
        """
        if key in self._held:
            return self._held[key]
        path = self._file(key)
        with reading(path):
            array = np.load(path, allow_pickle=False).view(like.dtype)
            if array.shape != like.shape:
                raise ValueError(f"expected shape {like.shape}, found {array.shape}")
        return array

    def choice(self, place: str | None) -> Tree | None:
        """Returns the longest choice of rows that is kept at a place, or None."""
        return self._choices.get(place, (0, None))[1]

    def keep_choice(self, place: str | None, length: int, carry: Tree) -> None:
        """Keeps a choice that has ended, if none is longer; nowhere at None."""
        if place is not None and length > self._choices.get(place, (0, None))[0]:
            self._choices[place] = length, carry

    def make_room(
        self, needed: int, free: int, figures: str
    ) -> Callable[[Key, np.ndarray], None]:
        """Returns what keeps features, each by its key, in memory or in the folder.

        Args:
            needed: bytes.
            free: bytes of the host's memory that can still be taken.
            figures: what it is that needs them, in messages.

        Raises:
            MemoryLimitError: there is no room; the figures are named.
        """
        if self.bytes + needed <= MEMORY_SHARE * (self.bytes + free):
            return self._hold
        if self._folder is None:
            raise memory.MemoryLimitError(
                f"{figures} take {_gibibytes(needed)}, and of the host's "
                f"{_gibibytes(free)} that are free half may hold features; name a "
                "folder for them (Options.cache_folder)"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        (free,) = processes.lowest([shutil.disk_usage(self._folder).free])
        if needed > free:
            raise memory.MemoryLimitError(
                f"{self._folder}: {figures} take {_gibibytes(needed)}, and the disk "
                f"has {_gibibytes(free)} left"
            )
        return self._write

    def _hold(self, key: Key, array: np.ndarray) -> None:
        self._held[key] = np.array(array)  # of its own: the rest of the batch may go
        self._programs.add(key.program)
        self.bytes += array.nbytes

    def _write(self, key: Key, array: np.ndarray) -> None:
        path = self._file(key)
        path.parent.mkdir(exist_ok=True)
        # NumPy's format has no name for bfloat16.
        plain = array if array.dtype.kind != "V" else array.view(f"V{array.itemsize}")
        with open_whole(path) as file:
            np.save(file, plain, allow_pickle=False)

    def _file(self, key: Key) -> Path:
        return self._folder / key.program / f"{key.sample}.npy"


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
