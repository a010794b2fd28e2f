"""Pretrained weights in files that cannot carry code: safetensors, npz, npy."""

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ad3d_jax.base import Tree
from ad3d_jax.features.npy_files import plain_files, read_folder, read_npz
from ad3d_jax.features.safetensors_header import check_header
from ad3d_jax.workdir import trees
from ad3d_jax.workdir.atomic import write_bytes

REFUSED = (".pkl", ".pickle", ".pckl", ".pth", ".pt", ".t7", ".ckpt", ".bin")


def load(path: str | os.PathLike, like: Tree) -> Tree:
    """Reads weights from a file or a folder into the structure of `like`.

    Args:
        path: as for `read`; its names are the keys of the tree joined by "/".
        like: tree of arrays or of anything else with shape and dtype.

    Returns:
        The tree with NumPy arrays. Floating-point values take the dtype of `like`;
        other dtypes must agree.

    Raises:
        ValueError: the file is refused (see `read`), or names, shapes or dtypes differ.
            Then all differences are listed, and nothing is loaded.
        FileNotFoundError: there is no such file or folder.
    """
    return fit(path, read(path), like)


def fit(path: str | os.PathLike, found: Mapping[str, np.ndarray], like: Tree) -> Tree:
    """Puts arrays by name into the structure of `like`, see `load`.

    Args:
        path: where they come from, for the message.
        found: name -> array.
        like: as for `load`.

    Raises:
        ValueError: there is a fault; all are listed.
    """
    listed = faults(found, like)
    if listed:
        raise ValueError(
            f"{path}: {len(listed)} of its weights do not fit, nothing was loaded\n  "
            + "\n  ".join(listed)
        )
    wanted = trees.by_name(like).items()
    arrays = [found[name].astype(leaf.dtype) for name, leaf in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def faults(found: Mapping[str, np.ndarray], like: Tree) -> list[str]:
    """Returns one line for each name that is missing, unexpected or mismatched."""
    wanted = trees.by_name(like)
    missing = [f"missing: {name}" for name in wanted if name not in found]
    unexpected = [f"unexpected: {name}" for name in found if name not in wanted]
    mismatched = [
        f"mismatched: {name}, expected {_form(leaf)}, found {_form(found[name])}"
        for name, leaf in wanted.items()
        if name in found and not _fits(found[name], leaf)
    ]
    return missing + unexpected + mismatched


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads weights as a flat dictionary of arrays.

    Args:
        path: a `.safetensors` or `.npz` file, or a folder of `.npy` files, one an
            array, whose names are the files' with "/" for each dot.

    Raises:
        ValueError: the file may carry code (a pickle, by its extension or by its first
            bytes), has another format, or lies about what it holds; a folder holds
            anything but plain `.npy` files of numbers.
        FileNotFoundError: there is no such file or folder.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    if path.suffix.lower() in REFUSED:
        raise ValueError(_refusal(path, f"a {path.suffix} file"))
    data = path.read_bytes()
    if _is_pickle(data):
        raise ValueError(_refusal(path, "pickled data"))
    readers = {".safetensors": _read_safetensors, ".npz": read_npz}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{path}: expected a .safetensors or .npz file or a folder of .npy files,"
            f" found {path.suffix!r}"
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
    leaves = trees.by_name(tree).items()
    # The format stores raw bytes: other strides would be written as they lie.
    arrays = {name: np.array(leaf, order="C") for name, leaf in leaves}
    data = safetensors.numpy.save(arrays, dict(metadata or {}) or None)
    check_header(data)
    write_bytes(path, data)


def fingerprint(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file's bytes, 64 hexadecimal digits.

    Of a folder: the SHA-256 of lines "NAME DIGEST", one a file, sorted by name; what
    `sha256sum` prints for the files, in another order of columns.

    Raises:
        ValueError: a folder holds anything but plain files.
    """
    path = Path(path)
    if path.is_dir():
        lines = (f"{file.name} {fingerprint(file)}\n" for file in plain_files(path))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    check_header(data)
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"expected safetensors, found: {error}") from error


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


def _form(leaf) -> str:
    return f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"


def _fits(found: np.ndarray, leaf) -> bool:
    floating = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (found, leaf))
    return found.shape == tuple(leaf.shape) and (floating or found.dtype == leaf.dtype)
