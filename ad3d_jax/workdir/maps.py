"""The anomaly maps of a split, and the samples that are shown: maps/."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ad3d_jax.workdir.arrays import read_arrays, write_arrays
from ad3d_jax.workdir.atomic import UNFINISHED
from ad3d_jax.workdir.disk import writing
from ad3d_jax.workdir.scores import Row
from ad3d_jax.workdir.unreadable import reading

_ENDING = ".npz"


def write_maps(
    folder: Path, rows: Sequence[Row], maps: np.ndarray, masks: np.ndarray
) -> None:
    """Writes `map` and `mask` of each sample as a file that has the sample's name.

    The folder goes first: what an earlier scoring left there is no longer true. It is
    there again when all is written.

    Args:
        folder: made if need be.
        rows: N samples.
        maps: [N,H,W] float32.
        masks: [N,H,W] bool.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    for each in (folder, unfinished):
        shutil.rmtree(each, ignore_errors=True)
    with writing(folder):
        unfinished.mkdir(parents=True)
        for row, map, mask in zip(rows, maps, masks, strict=True):
            write_arrays(unfinished / (row.name + _ENDING), {"map": map, "mask": mask})
        unfinished.rename(folder)


def read_map(folder: Path, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Returns map [H,W] float32 and mask [Hm,Wm] bool of a sample.

    Raises:
        UnreadableError: the file is missing or damaged.
    """
    return read_file(folder / (row.name + _ENDING))


def read_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns map and mask of one of `files`, see `read_map`."""
    arrays = read_arrays(path)
    with reading(path):
        map, mask = (without_channel(arrays[name]) for name in ("map", "mask"))
        if map.ndim != 2 or mask.ndim != 2:
            raise ValueError(f"expected [H,W], found {map.shape}, {mask.shape}")
        return map.astype(np.float32), mask.astype(bool)


def write_samples(
    folder: Path, samples: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    """Writes what is shown of some samples, arrays by name, as a file for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in samples.items():
        write_arrays(folder / (name + _ENDING), arrays)


def files(folder: Path) -> list[Path]:
    """Returns the files of a folder of maps or of samples by name; none if absent."""
    return sorted(folder.glob(f"*{_ENDING}"))


def without_channel(array: np.ndarray) -> np.ndarray:
    """Returns [H,W] from [H,W,1], all else as it is."""
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
