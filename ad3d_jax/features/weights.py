"""Pretrained weights from and to files that cannot carry code: safetensors and npz."""

import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ad3d_jax.base import Tree
from ad3d_jax.features.safetensors_header import check_header

REFUSED = (".pkl", ".pickle", ".pckl", ".pth", ".pt", ".t7", ".ckpt", ".bin")


def load(path: str | os.PathLike, like: Tree) -> Tree:
    """Reads a file of weights into the structure of `like`.

    Args:
        path: a `.safetensors` or `.npz` file; its names are the keys of the tree joined
            by "/".
        like: tree of arrays or of anything else with shape and dtype.

    Returns:
        The tree with NumPy arrays. Floating-point values take the dtype of `like`;
        other dtypes must agree.

    Raises:
        ValueError: the file is refused (see `read`), or names, shapes or dtypes differ.
            Then all differences are listed, and nothing is loaded.
        FileNotFoundError: there is no such file.
    """
    found = read(path)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {_name(place): leaf for place, leaf in leaves}
    missing = [f"missing: {name}" for name in wanted if name not in found]
    unexpected = [f"unexpected: {name}" for name in found if name not in wanted]
    mismatched = [
        f"mismatched: {name}, expected {_form(leaf)}, found {_form(found[name])}"
        for name, leaf in wanted.items()
        if name in found and not _fits(found[name], leaf)
    ]
    faults = missing + unexpected + mismatched
    if faults:
        raise ValueError(
            f"{path}: {len(faults)} of its weights do not fit, nothing was loaded\n  "
            + "\n  ".join(faults)
        )
    arrays = [found[name].astype(leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree_util.tree_unflatten(structure, arrays)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a file of weights as a flat dictionary of arrays.

    Args:
        path: a `.safetensors` or `.npz` file.

    Raises:
        ValueError: the file may carry code (a pickle, by its extension or by its first
            bytes), has another format, or lies about what it holds.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if path.suffix.lower() in REFUSED:
        raise ValueError(_refusal(path, f"a {path.suffix} file"))
    data = path.read_bytes()
    if _is_pickle(data):
        raise ValueError(_refusal(path, "pickled data"))
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{path}: expected a .safetensors or .npz file, found {path.suffix!r}"
        )
    try:
        return readers[path.suffix.lower()](data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save(
    path: str | os.PathLike, tree: Tree, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a tree of arrays as safetensors, all of it or nothing.

    Args:
        path: file to write or to replace, ending in `.safetensors`.
        tree: arrays; their names are the keys of the tree joined by "/".
        metadata: text stored in the header, such as the source.

    Raises:
        ValueError: the extension differs, or two leaves have the same name.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    # The format stores raw bytes: other strides would be written as they lie.
    arrays = {_name(place): np.array(leaf, order="C") for place, leaf in leaves}
    if len(arrays) != len(leaves):
        raise ValueError(f"{path}: two arrays of the tree have the same name")
    data = safetensors.numpy.save(arrays, dict(metadata or {}) or None)
    check_header(data)
    _replace(path, data)


def fingerprint(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    check_header(data)
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"expected safetensors, found: {error}") from error


def _read_npz(data: bytes) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                _check_member(archive, member)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"expected an npz archive, found: {error}") from error


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raises a ValueError unless a member is an array as large as its header says."""
    if not member.filename.endswith(".npy"):
        raise ValueError(f"expected .npy members alone, found {member.filename!r}")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"{member.filename}: expected npy 1.0 or 2.0")
        shape, _, dtype = readers[version](file)
        if dtype.kind not in "fiub":
            raise ValueError(
                f"{member.filename}: expected numbers, found an array of dtype {dtype}"
            )
        needed = file.tell() + math.prod(shape) * dtype.itemsize
    if needed != member.file_size:
        raise ValueError(
            f"{member.filename}: expected {needed} bytes for {dtype} {list(shape)},"
            f" found {member.file_size}"
        )


def _is_pickle(data: bytes) -> bool:
    """Says whether the bytes are a binary pickle or a zip archive around one."""
    if data.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return any(name.endswith(".pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, RuntimeError, ValueError, OSError):
            return False  # damaged: the reader of the format says how
    # A safetensors header of 640 bytes begins like a pickle of protocol 2.
    header = data[3:9] == b"\0\0\0\0\0{"
    return (
        data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5") and not header
    )


def _refusal(path: Path, found: str) -> str:
    target = path.with_suffix(".safetensors").name
    return (
        f"{path}: expected weights as .safetensors or .npz, found {found}, which can"
        " run code when it is opened; where you trust its source, convert it first:"
        f" python tools/convert_torch.py {path.name} {target}"
    )


def _replace(path: Path, data: bytes) -> None:
    """Writes beside the target, then renames over it; a failure leaves no trace."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _name(place: tuple) -> str:
    return jax.tree_util.keystr(place, simple=True, separator="/")


def _form(leaf) -> str:
    return f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"


def _fits(found: np.ndarray, leaf) -> bool:
    floating = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (found, leaf))
    return found.shape == tuple(leaf.shape) and (floating or found.dtype == leaf.dtype)
