"""Checkpoints that are verified when they are loaded; the only file that names orbax.

A step is a folder named by its number. It holds the leaves of a tree under their
paths, so that the structure is ours, and a manifest with shape, dtype and SHA-256 of
each leaf. Orbax writes a step under a temporary name and renames it when complete.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from ad3d_jax.base import Tree

# What orbax and `_remove` leave behind when the process dies at work.
_UNFINISHED = (".orbax-checkpoint-tmp", ".removed")
_SHOWN = 20  # leaves named in an error before it is cut


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read, or does not fit the model.

    `step` and `leaf` (the path of a leaf in the tree) are None where they do not apply.
    """

    def __init__(self, message: str, step: int | None = None, leaf: str | None = None):
        super().__init__(message)
        self.step = step
        self.leaf = leaf


class _Broken(CheckpointError):
    """What is on disk is not what was saved."""


class _Leaf(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    key: str | None  # the generator's name for typed random keys


class Checkpointer:
    """Saves a tree by step number and finds the newest step that is whole.

    `keep` is the number of newest steps that stay on disk. Saving is asynchronous: the
    arrays are copied before `save` returns and written afterwards. The failure of a
    save is raised as CheckpointError by the next call of any method, `close` included.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, found {keep}")
        self._folder = Path(folder).absolute()
        self._keep = keep
        self._opened = time.time()
        self._swept = False
        self._pending: tuple[int, Any] | None = None
        self._broken: set[int] = set()

    def save(self, step: int, tree: Tree) -> None:
        """Starts to write a tree of arrays as `step`; an existing step is replaced.

        Args:
            step: number of finished steps, at least 0.
            tree: jax or NumPy arrays, numbers and typed random keys; every device's
                part of an array must be addressable from here.
        """
        self._finish()
        if step < 0:
            raise CheckpointError(f"step must be at least 0, found {step}", step)
        arrays, manifest = {}, {}
        for path, leaf in _paths(tree).items():
            arrays[path], manifest[path] = _to_host(path, leaf)
        content = {
            # Orbax refuses arrays of size zero; the manifest alone restores them.
            "leaves": {path: array for path, array in arrays.items() if array.size},
            "manifest": _encode(manifest),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._swept:
                self._sweep()
            target = self._folder / str(step)
            with _by_itself():
                response = ocp.save_async(target, content, overwrite=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._save_error(step, error) from error
        self._pending = (step, response)

    def latest(self, like: Tree | None = None) -> tuple[int, Tree] | None:
        """Returns the newest whole step and its tree, or None where nothing was saved.

        A step that is damaged is passed over with a warning. Reading changes nothing on
        disk.

        Args:
            like: tree of arrays or `jax.ShapeDtypeStruct`, of the structure, shapes and
                dtypes expected. A leaf comes back as a jax array, placed like the
                leaf of `like`, or as a NumPy array where that is one. None takes
                whatever was saved, as dicts in dicts of NumPy arrays by the names in
                the leaves' paths; what had no leaves is not in it.

        Raises:
            CheckpointError: the newest whole step has other leaves, shapes or dtypes
                than `like`, or there are steps but none is whole.
        """
        self._finish()
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, _load(self._folder / str(step), step, like)
            except _Broken as error:
                self._broken.add(step)
                logging.warning("%s; trying the step before it", error)
        if steps:
            raise CheckpointError(
                f"{self._folder}: none of the steps {steps} is whole; remove the "
                "folder to start anew",
                steps[-1],
            )
        return None

    def steps(self) -> list[int]:
        """Returns the step numbers on disk in rising order, without looking inside."""
        self._finish()
        if not self._folder.is_dir():
            return []
        names = (entry.name for entry in self._folder.iterdir() if entry.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def close(self) -> None:
        """Waits for the last save; raises CheckpointError if it failed."""
        self._finish()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _finish(self) -> None:
        """Waits for the save under way and removes the steps that it replaces."""
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        try:
            response.result()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._save_error(step, error) from error
        self._broken.discard(step)
        # A higher step belongs to a past from which the run has gone back; it does not
        # count, and goes only if it is known to be damaged.
        before = [other for other in self.steps() if other <= step]
        for other in {*before[: -self._keep], *self._broken}:
            _remove(self._folder / str(other))
        self._broken.clear()

    def _sweep(self) -> None:
        """Removes the unfinished folders of runs that died before this one began."""
        self._swept = True
        for entry in self._folder.iterdir():
            unfinished = any(mark in entry.name for mark in _UNFINISHED)
            if unfinished and entry.stat().st_mtime < self._opened:
                logging.info("removing %s, left by a run that died", entry)
                shutil.rmtree(entry, ignore_errors=True)

    def _save_error(self, step: int, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self._folder}: saving step {step} failed: {error}", step
        )


def save_tree(path: str | Path, tree: Tree) -> None:
    """Writes one tree of arrays as the folder `path`, in place of an earlier one.

    The earlier tree stays loadable until the new one is complete. CheckpointError if it
    cannot be written.
    """
    with Checkpointer(path, keep=1) as checkpointer:
        steps = checkpointer.steps()
        checkpointer.save(steps[-1] + 1 if steps else 0, tree)


def load_tree(path: str | Path, like: Tree | None = None) -> Tree:
    """Returns the tree that `save_tree` wrote; `like` as in `Checkpointer.latest`.

    CheckpointError if there is none, it is damaged, or it differs from `like` in
    leaves, shapes or dtypes.
    """
    found = Checkpointer(path).latest(like)
    if found is None:
        raise CheckpointError(f"{path}: no saved tree found")
    return found[1]


def _paths(tree: Tree) -> dict[str, Any]:
    """Returns the leaves by path, such as `params/dense/kernel`."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        parts = (jax.tree_util.keystr((part,), simple=True) for part in path)
        name = "/".join(p.replace("%", "%25").replace("/", "%2F") for p in parts)
        if name in leaves:
            raise CheckpointError(f"two leaves have the path {name!r}", leaf=name)
        leaves[name] = leaf
    return leaves


def _nested(leaves: dict[str, Any]) -> dict:
    """Returns leaves by path as dicts in dicts."""
    tree: dict = {}
    for path, leaf in leaves.items():
        *outer, last = (
            part.replace("%2F", "/").replace("%25", "%") for part in path.split("/")
        )
        node = tree
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _to_host(path: str, leaf: Any) -> tuple[np.ndarray, _Leaf]:
    """Returns a private copy, which no later donation can write to, and its record."""
    key = str(jax.random.key_impl(leaf)) if _is_key(leaf) else None
    shape, dtype = _kind(leaf)
    array = np.array(jax.random.key_data(leaf) if key else leaf, order="C")
    if array.dtype.kind in "OSU":
        raise CheckpointError(
            f"leaf {path!r}: expected an array of numbers, found {type(leaf).__name__}",
            leaf=path,
        )
    return array, _Leaf(shape, dtype, _digest(array), key)


def _kind(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Returns shape and dtype name of an array, a number or a ShapeDtypeStruct."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return tuple(leaf.shape), str(leaf.dtype)


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _encode(manifest: dict[str, _Leaf]) -> np.ndarray:
    """Returns a manifest as bytes: the digest of the JSON text, then the text."""
    text = json.dumps({path: leaf._asdict() for path, leaf in manifest.items()})
    digest = hashlib.sha256(text.encode()).hexdigest()
    return np.frombuffer((digest + text).encode(), np.uint8)


def _decode(manifest: np.ndarray) -> dict[str, _Leaf]:
    """Inverts `_encode`; ValueError if the digest is not that of the text."""
    content = np.asarray(manifest).tobytes()
    digest, text = content[:64].decode(), content[64:]
    if hashlib.sha256(text).hexdigest() != digest:
        raise ValueError("the digest of the manifest is not the one saved with it")
    return {
        path: _Leaf(**{**record, "shape": tuple(record["shape"])})
        for path, record in json.loads(text).items()
    }


def _load(folder: Path, step: int, like: Tree | None) -> Tree:
    """Returns a verified step as a tree like `like`, or in nested dicts."""
    content, manifest = _read(folder, step)
    if like is not None:
        expected = _paths(like)
        _check_fit(folder, step, manifest, expected)
    arrays = {}
    for path, record in manifest.items():
        if path in content:
            array = content[path]
        else:
            array = np.zeros(record.shape, jnp.dtype(record.dtype))
        if _digest(array) != record.sha256:
            raise _Broken(
                f"{folder}: step {step} is damaged: the digest of leaf {path!r} "
                "differs from the one saved with it",
                step,
                path,
            )
        arrays[path] = array
    if like is None:
        return _nested({p: _placed(a, manifest[p], a) for p, a in arrays.items()})
    leaves = [_placed(arrays[p], manifest[p], leaf) for p, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _read(folder: Path, step: int) -> tuple[dict[str, np.ndarray], dict[str, _Leaf]]:
    """Returns arrays and manifest of a step; _Broken if they cannot be read."""
    try:
        with _by_itself():
            content = ocp.load(folder)
        manifest = _decode(content["manifest"])
        arrays = {path: np.asarray(a) for path, a in content["leaves"].items()}
    # Of a damaged file orbax passes on whatever its readers raise, bare Exception too.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise _Broken(
            f"{folder}: step {step} cannot be read: {type(error).__name__}: {reason}",
            step,
        ) from error
    return arrays, manifest


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    """Within it orbax saves or loads for this process alone and waits for no other."""
    if jax.process_count() == 1:
        yield
        return
    from unittest import mock

    from orbax.checkpoint.experimental.v1._src.synchronization import multihost

    own = jax.process_index()
    context = ocp.Context()
    context.multiprocessing.primary_host = own
    context.multiprocessing.active_processes = {own}
    context.multiprocessing.barrier_sync_key_prefix = f"process_{own}"
    # Orbax 0.12 has all processes compare the folder, whatever its options say.
    alone = mock.patch.object(multihost, "process_count", lambda: 1)
    with alone, context:
        yield


def _check_fit(folder: Path, step: int, manifest: dict, expected: dict) -> None:
    """Raises CheckpointError with all differences of leaves, shapes and dtypes."""
    problems = {
        "only in the checkpoint": sorted(manifest.keys() - expected.keys()),
        "only in the model": sorted(expected.keys() - manifest.keys()),
        "different": [],
    }
    first = next((names[0] for names in problems.values() if names), None)
    for path in sorted(manifest.keys() & expected.keys()):
        (shape, dtype), record = _kind(expected[path]), manifest[path]
        if (shape, dtype) != (record.shape, record.dtype):
            first = first or path
            problems["different"].append(
                f"{path} (expected {dtype}{list(shape)}, found "
                f"{record.dtype}{list(record.shape)})"
            )
    if first is None:
        return
    lines = [f"{folder}: step {step} does not fit the model"]
    for title, names in problems.items():
        if names:
            more = ", …" if len(names) > _SHOWN else ""
            lines.append(f"  {title} ({len(names)}): {', '.join(names[:_SHOWN])}{more}")
    raise CheckpointError("\n".join(lines), step, first)


def _placed(array: np.ndarray, record: _Leaf, like: Any) -> Any:
    """Returns the array with the type and on the devices of `like`."""
    if record.key:
        array = jax.random.wrap_key_data(jnp.asarray(array), impl=record.key)
    elif not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return array
    if isinstance(like, jax.Array) and like.committed:
        return jax.device_put(array, like.sharding)
    return jnp.asarray(array)


def _remove(folder: Path) -> None:
    """Removes a step; a kill in the middle leaves nothing that looks like a step."""
    if folder.exists():
        doomed = folder.with_name(f"{folder.name}{_UNFINISHED[1]}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
