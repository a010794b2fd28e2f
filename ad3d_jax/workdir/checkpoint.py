"""Checkpoints that are verified when they are loaded; the only file that names orbax.

A step is a folder named by its number. It holds the leaves of a tree by their numbers,
so that the structure is ours, and a manifest with path, shape, dtype and SHA-256 of
each leaf. Orbax writes a step under a temporary name and renames it when complete.
"""

import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from ad3d_jax.base import Tree
from ad3d_jax.workdir import trees
from ad3d_jax.workdir.disk import DiskFullError, writing

# What orbax and `_remove` leave behind when the process dies at work.
_UNFINISHED = (".orbax-checkpoint-tmp", ".removed")


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read.

    `step` and `leaf` (its name in the tree) are None where they do not apply.
    """

    def __init__(self, message: str, step: int | None = None, leaf: str | None = None):
        super().__init__(message)
        self.step = step
        self.leaf = leaf


class _BrokenError(CheckpointError):
    """What is on disk is not what was saved."""


class _Leaf(NamedTuple):
    path: trees.Path
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    key: str | None  # the generator's name for typed random keys


class Checkpointer:
    """Saves a tree by step number and finds the newest step that is whole.

    `keep` is the number of newest steps that stay on disk. Saving is asynchronous: the
    arrays are copied before `save` returns and written afterwards. The failure of a
    save is raised as CheckpointError, or DiskFullError where no space is left, by the
    next call of any method, `close` included.
    Of several processes the first alone may save, and any may load; neither waits for
    another.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, found {keep}")
        self._folder = Path(folder).absolute()
        self._keep = keep
        self._opened = time.time()
        self._swept = False
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._pending: tuple[int, Future] | None = None
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
        if jax.process_index() != 0:  # whose NumPy arrays orbax leaves out in silence
            raise CheckpointError(
                f"{self._folder}: of several processes the first saves, found process "
                f"{jax.process_index()}",
                step,
            )
        content = _encode(tree)
        with self._saving(step):
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._swept:
                self._sweep()
        self._pending = step, self._writer.submit(self._write, step, content)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns the newest whole step and its tree, or None where nothing was saved.

        The tree is dicts in dicts, as of `trees.as_dicts`, of NumPy arrays and typed
        random keys; what had no leaves is not in it. A step that is damaged is passed
        over with a warning. Reading changes nothing on disk.

        Raises:
            CheckpointError: there are steps but none is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, _load(self._folder / str(step), step)
            except _BrokenError as error:
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
        """Waits for the last save; raises an error, as the class says, if it failed."""
        self._finish()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _write(self, step: int, content: Tree) -> None:
        target, arguments = self._folder / str(step), ocp.args.PyTreeSave(content)
        with _untraced(), _orbax() as orbax:
            orbax.save(target, arguments, force=True)

    def _finish(self) -> None:
        """Waits for the save under way and removes the steps that it replaces."""
        if self._pending is None:
            return
        (step, written), self._pending = self._pending, None
        with self._saving(step):
            written.result()
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

    @contextlib.contextmanager
    def _saving(self, step: int) -> Iterator[None]:
        """Names the step that cannot be saved."""
        try:
            with writing(self._folder / str(step)):
                yield
        except DiskFullError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            message = f"{self._folder}: saving step {step} failed: {error}"
            raise CheckpointError(message, step) from error


def save_tree(path: str | Path, tree: Tree) -> None:
    """Writes one tree of arrays as the folder `path`, in place of an earlier one.

    The earlier tree stays loadable until the new one is complete. CheckpointError if it
    cannot be written, DiskFullError if no space is left.
    """
    with Checkpointer(path, keep=1) as checkpointer:
        steps = checkpointer.steps()
        checkpointer.save(steps[-1] + 1 if steps else 0, tree)


def has_tree(path: str | Path) -> bool:
    """Returns whether `save_tree` has ended; what it left half done is no tree."""
    return bool(Checkpointer(path).steps())


def load_tree(path: str | Path) -> dict[str, Any]:
    """Returns the tree that `save_tree` wrote, in dicts as `Checkpointer.latest` does.

    CheckpointError if there is none or it is damaged.
    """
    found = Checkpointer(path).latest()
    if found is None:
        raise CheckpointError(f"{path}: no saved tree found")
    return found[1]


def _orbax() -> ocp.Checkpointer:
    """Returns what saves or loads for this process alone and waits for no other."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _encode(tree: Tree) -> Tree:
    """Returns what is written of a tree: its arrays by number, and the manifest."""
    found = [_to_host(path, leaf) for path, leaf in trees.by_path(tree).items()]
    # Orbax refuses arrays of size zero; the manifest alone restores them.
    arrays = {str(i): array for i, (array, _) in enumerate(found) if array.size}
    return {"leaves": arrays, "manifest": _encode_manifest([leaf for _, leaf in found])}


def _to_host(path: trees.Path, leaf: Any) -> tuple[np.ndarray, _Leaf]:
    """Returns a private copy, which no later donation can write to, and its record."""
    dtype = getattr(leaf, "dtype", None)
    is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    key = str(jax.random.key_impl(leaf)) if is_key else None
    array = np.array(jax.random.key_data(leaf) if is_key else leaf, order="C")
    if array.dtype.kind in "OSU":
        name, kind = trees.shown(path), type(leaf).__name__
        raise CheckpointError(
            f"leaf {name!r}: expected an array of numbers, found {kind}", leaf=name
        )
    return array, _Leaf(path, array.shape, str(array.dtype), _digest(array), key)


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _encode_manifest(manifest: list[_Leaf]) -> np.ndarray:
    """Returns a manifest as bytes: the digest of the JSON text, then the text."""
    text = json.dumps([leaf._asdict() for leaf in manifest])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return np.frombuffer((digest + text).encode(), np.uint8)


def _decode_manifest(manifest: np.ndarray) -> list[_Leaf]:
    """Inverts `_encode_manifest`; ValueError if the digest is not that of the text."""
    content = np.asarray(manifest).tobytes()
    digest, text = content[:64].decode(), content[64:]
    if hashlib.sha256(text).hexdigest() != digest:
        raise ValueError("the digest of the manifest is not the one saved with it")
    return [
        _Leaf(**{**leaf, "path": tuple(leaf["path"]), "shape": tuple(leaf["shape"])})
        for leaf in json.loads(text)
    ]


def _load(folder: Path, step: int) -> dict[str, Any]:
    """Returns the tree of a step; _BrokenError if it is not what was saved."""
    arrays, manifest = _read(folder, step)
    leaves = {}
    for number, leaf in enumerate(manifest):
        array = arrays.get(str(number))
        if array is None:
            array = np.zeros(leaf.shape, jnp.dtype(leaf.dtype))
        if _digest(array) != leaf.sha256:
            name = trees.shown(leaf.path)
            raise _BrokenError(
                f"{folder}: step {step} is damaged: the digest of leaf {name!r} "
                "differs from the one saved with it",
                step,
                name,
            )
        if leaf.key:
            array = jax.random.wrap_key_data(jnp.asarray(array), impl=leaf.key)
        leaves[leaf.path] = array
    return trees.nested(leaves)


def _read(folder: Path, step: int) -> tuple[dict[str, np.ndarray], list[_Leaf]]:
    """Returns arrays and manifest of a step; _BrokenError if they cannot be read."""
    try:
        with _orbax() as orbax:
            content = orbax.restore(folder)
        manifest = _decode_manifest(content["manifest"])
        return {n: np.asarray(x) for n, x in content["leaves"].items()}, manifest
    # Of a damaged file orbax passes on whatever its readers raise, bare Exception too.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise _BrokenError(
            f"{folder}: step {step} cannot be read: {type(error).__name__}: {reason}",
            step,
        ) from error


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    """Keeps traces of what orbax raises, which is told by us, from being printed.

    When one write fails, orbax waits for no other: the others end later, in threads of
    tensorstore, and find their event loop closed. Hence, after a failure, that is
    passed over for good.
    """

    def wanted(record) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)

    def told(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    logger, before = logging.get_absl_logger(), sys.unraisablehook
    logger.addFilter(wanted)
    sys.unraisablehook = told
    try:
        yield
        sys.unraisablehook = before
    finally:
        logger.removeFilter(wanted)


def _remove(folder: Path) -> None:
    """Removes a step; a kill in the middle leaves nothing that looks like a step."""
    if folder.exists():
        doomed = folder.with_name(f"{folder.name}{_UNFINISHED[1]}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
