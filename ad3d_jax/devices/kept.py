"""Keeps what tracing found, so that the next process need not trace the same again.

Kept are the shapes of a tree, as JSON, and traced programs, as `jax.export` writes
them: data that is parsed, never unpickled. Both lie beside the compiled programs that
jax keeps, and only where it keeps them (`devices.remembered`). The name of a file is a
digest of all that the trace depends on: versions, this library's source, the kind of
device, settings of jax, what the caller says, and shapes. A file that is damaged is
made anew.
"""

import contextlib
import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
from absl import logging

import ad3d_jax
from ad3d_jax.base import Tree
from ad3d_jax.devices.compilation import Compiled
from ad3d_jax.devices.described import described, rebuilt
from ad3d_jax.ops.knn import Bank
from ad3d_jax.workdir import places, trees
from ad3d_jax.workdir.atomic import write_bytes

FOLDER = "traced"  # within that of compiled programs
SETTINGS = (  # of jax, which a trace depends on
    *("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl"),
    *("jax_threefry_partitionable", "jax_numpy_dtype_promotion"),
    "jax_numpy_rank_promotion",
)
Facts = Mapping[str, Any] | None


def shapes(function: Callable, *arguments: Tree, facts: Facts) -> Tree:
    """Returns what `jax.eval_shape` does, from an earlier process where it is kept.

    Args:
        function: of this library.
        arguments: arrays, or their shapes.
        facts: all else that the result depends on, as JSON; None = it is not kept.
    """
    place = _place("shapes", facts, signature(arguments))
    kept = place and _read(place)
    if kept is not None:
        return rebuilt(json.loads(kept))
    found = jax.eval_shape(function, *arguments)
    if place is not None:
        with contextlib.suppress(TypeError):  # of a container that is not known
            _write(place, json.dumps(described(found)).encode())
    return found


class Program:
    """A compiled function that runs the traces of earlier processes.

    Cold and warm it runs the same program, so that both give the same bits. What cannot
    be exported is traced in each process.
    """

    def __init__(self, compiled: Compiled, facts: Facts, result: Callable[..., Tree]):
        """Takes a function of one device.

        Args:
            compiled: from `compile_map`, for an engine of the kind "jit".
            facts: all that its trace depends on besides shapes; None = keep nothing.
            result: makes what the function returns of its parts by their names, of an
                array alone by the name "value".
        """
        self._compiled, self._facts, self._result = compiled, facts, result
        self._ready: dict[Any, Callable] = {}

    def __call__(self, *arguments: Tree) -> Tree:
        """Runs the function."""
        leaves, structure = jax.tree.flatten(self._compiled.arrange(*arguments))
        leaves = [_plain(x) for x in leaves]
        case = structure, tuple((x.shape, x.dtype) for x in leaves)
        if case not in self._ready:
            place = _place("program", self._facts, signature(arguments))
            self._ready[case] = self._prepared(place, arguments, leaves)
        run = self._ready[case]
        return (
            self._compiled(*arguments) if run is None else self._result(**run(*leaves))
        )

    def _prepared(
        self, place: Path | None, arguments: Sequence[Tree], leaves: Sequence[Any]
    ) -> Callable | None:
        """Returns the kept or new program of the leaves; None where it is not kept."""
        if place is None:
            return None
        kept = _read(place)
        if kept is not None:
            return jax.jit(jax.export.deserialize(bytearray(kept)).call)
        keys = jax.tree.map(_implementation, self._compiled.arrange(*arguments))
        implementations, structure = jax.tree.flatten(keys)

        def flat(*leaves):
            typed = map(_typed, leaves, implementations)
            return trees.as_dicts(
                self._compiled.function(*jax.tree.unflatten(structure, typed))
            )

        like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
        try:
            exported = jax.export.export(jax.jit(flat))(*like)
            _write(place, exported.serialize())
        except (NotImplementedError, ValueError) as error:
            logging.info("%s is not kept: %s", self._compiled.name, error)
            return None
        return jax.jit(exported.call)


def signature(tree: Tree) -> list:
    """Returns names, shapes and dtypes of the leaves, and what else counts of banks."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    banks = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Bank))
    chunks = [x.chunk_bytes for x in banks if isinstance(x, Bank)]
    named = [
        (jax.tree_util.keystr(path), list(np.shape(x)), str(x.dtype))
        for path, x in leaves
    ]
    return [named, chunks]


def _place(kind: str, facts: Facts, signature: list) -> Path | None:
    """Returns the file of what is kept; None where nothing is to be kept."""
    folder = jax.config.jax_compilation_cache_dir
    if facts is None or not folder or places.ADDRESS.match(str(folder)):
        return None
    if importlib.util.find_spec("flatbuffers") is None:  # which jax.export writes with
        return None
    known = {
        "kind": kind,
        "facts": facts,
        "signature": signature,
        "source": source_digest(),
        "versions": [m.__version__ for m in (ad3d_jax, jax, jaxlib, flax, np)],
        "platform": jax.default_backend(),
        "settings": [str(getattr(jax.config, name)) for name in SETTINGS],
    }
    text = json.dumps(known, sort_keys=True)
    return Path(folder) / FOLDER / hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def source_digest() -> str:
    """Returns the SHA-256 of this library's source."""
    root, digest = Path(ad3d_jax.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _read(place: Path) -> bytes | None:
    """Returns what a file holds behind its digest, None where it is not whole."""
    try:
        content = place.read_bytes()
    except OSError:
        return None
    digest, content = content[:64], content[64:]
    if hashlib.sha256(content).hexdigest().encode() == digest:
        return content
    logging.warning("%s is damaged, and made anew", place)
    return None


def _write(place: Path, content: bytes) -> None:
    """Writes a digest and what it is of; where that fails, it is not kept."""
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_bytes(place, hashlib.sha256(content).hexdigest().encode() + content)
    except OSError as error:
        logging.warning("traced programs are not kept: %s", error)


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(x: Any) -> Any:
    """Returns an array; of a typed key its numbers, which a file can tell of."""
    return jax.random.key_data(x) if _is_key(x) else x


def _implementation(x: Any) -> str:
    """Returns the name of a typed key's generator, "" of other arrays."""
    return str(jax.random.key_impl(x)) if _is_key(x) else ""


def _typed(x: Any, implementation: str) -> Any:
    """Inverts `_plain`."""
    if not implementation:
        return x
    return jax.random.wrap_key_data(x, impl=implementation)
