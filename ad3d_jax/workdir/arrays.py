"""Arrays by name in npz files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ad3d_jax.workdir.atomic import open_whole
from ad3d_jax.workdir.unreadable import reading


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a compressed npz file, whole or not at all.

    OSError if the file cannot be written, DiskFullError if no space is left; an
    earlier file then stays as it was.
    """
    with open_whole(path) as file:
        np.savez_compressed(file, **arrays)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Returns all arrays of an npz file; UnreadableError: it is missing or damaged."""
    with reading(path), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
