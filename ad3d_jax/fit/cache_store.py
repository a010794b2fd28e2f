"""Where frozen features are kept: in memory, or in a folder that outlives a kill."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ad3d_jax.base import Array, Batch, State
from ad3d_jax.devices import memory
from ad3d_jax.fit.run import Run
from ad3d_jax.workdir.json_files import read_json, write_json
from ad3d_jax.workdir.unreadable import reading

MEMORY_SHARE = 0.5  # of the host's free memory, at most, for features
MANIFEST = "manifest.json"


class Store(NamedTuple):
    """Room for the features of a source."""

    ids: np.ndarray  # [N] int32
    arrays: Mapping[str, np.ndarray]  # [N,...]
    done: int  # rows that are there already
    save: Callable[[int], None]  # notes that so many rows are there
    held: int  # bytes of memory


def make_room(
    run: Run, source: str, state: State, batch: Batch, leaves: Sequence[Array]
) -> Store:
    """Returns room in memory, or else in a folder, where rows may be there already.

    Raises:
        MemoryLimitError: there is none; the figures are named.
        UnreadableError: a file of the folder is damaged.
    """
    size, folder = run.dataset.size(source), run.options.cache_folder
    shapes = {
        name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        for name, x in jax.eval_shape(run.system.cache, state, batch).items()
    }
    needed = sum(x.size * x.dtype.itemsize for x in shapes.values())
    free = run.limits().host_bytes
    figures = f"the features of {size} samples of {source} take {_gibibytes(needed)}"
    if needed <= MEMORY_SHARE * free:
        arrays = {name: np.empty(x.shape, x.dtype) for name, x in shapes.items()}
        ids = np.empty(size, np.int32)
        return Store(ids, arrays, 0, lambda done: None, needed)
    if folder is None:
        raise memory.MemoryLimitError(
            f"{run.system.name}: {figures}, and of the host's {_gibibytes(free)} that "
            "are free half may hold features; name a folder for them "
            "(Options.cache_folder)"
        )
    place = Path(folder) / _digest(run, source, batch, leaves, shapes)
    if not (place / MANIFEST).exists():
        place.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place).free
        if needed > free:
            raise memory.MemoryLimitError(
                f"{place}: {figures}, and the disk has {_gibibytes(free)} left"
            )
    return _in_folder(place, size, shapes)


def _in_folder(
    place: Path, size: int, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> Store:
    """Returns arrays that are mapped from .npy files, with what they hold already."""
    names = {"id": jax.ShapeDtypeStruct((size,), np.int32)}
    names |= {f"extras.{name}": x for name, x in shapes.items()}
    files = {name: f"{number}.npy" for number, name in enumerate(names)}
    begun = (place / MANIFEST).exists()
    done = _done(place / MANIFEST) if begun else 0
    found = {
        name: _mapped(place / files[name], like, begun) for name, like in names.items()
    }

    def save(done: int) -> None:
        for array in found.values():
            array.flush()
        write_json(place / MANIFEST, {"done": done, "size": size, "files": files})

    arrays = {name: found[f"extras.{name}"] for name in shapes}
    return Store(found["id"], arrays, done, save, 0)


def _mapped(path: Path, like: jax.ShapeDtypeStruct, begun: bool) -> np.ndarray:
    """Returns an array that is mapped from a file, which is new where none was begun.

    Raises:
        UnreadableError: the file is damaged.
    """
    if begun:
        with reading(path):  # to write to one that is too short would lengthen it
            np.load(path, mmap_mode="r", allow_pickle=False)
    # NumPy's format has no name for bfloat16.
    plain = like.dtype if like.dtype.kind != "V" else f"V{like.dtype.itemsize}"
    mode = "r+" if begun else "w+"
    return np.lib.format.open_memmap(path, mode, plain, like.shape).view(like.dtype)


def _done(manifest: Path) -> int:
    """Returns how many rows a folder holds."""
    with reading(manifest):
        return int(read_json(manifest)["done"])


def _digest(
    run: Run,
    source: str,
    batch: Batch,
    leaves: Sequence[Array],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> str:
    """Returns 16 hex digits that stand for what the features are computed of.

    Of the data the first sample counts: another recipe changes it.
    """
    first = jax.tree.leaves(jax.tree.map(lambda x: np.asarray(x[:1]), batch))
    table = [run.system.name, source, jax.process_index(), str(sorted(shapes.items()))]
    digest = hashlib.sha256(json.dumps(table).encode())
    for x in (*first, *map(np.asarray, leaves)):
        digest.update(f"{x.shape}{x.dtype}".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()[:16]


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
