"""Pretrained weights in files that cannot carry code: safetensors and npz."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import logging

from ad3d_jax.base import Tree
from ad3d_jax.features.formats import is_pickle, read_npz, read_safetensors
from ad3d_jax.workdir import trees
from ad3d_jax.workdir.atomic import write_bytes

REFUSED = (".pkl", ".pickle", ".pckl", ".pth", ".pt", ".t7", ".ckpt", ".bin")
FIRST_PART = re.compile(r"([^./]+)[./]")  # of a name such as module.conv1.weight


class WeightFile(NamedTuple):
    """A file of weights that was read and hashed, and stands for its path from then on.

    Whoever takes a path of weights takes this, too, and reads nothing again.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]  # by the names that the file uses
    sha256: str  # of the file's bytes, 64 hexadecimal digits
    metadata: Mapping[str, str]  # text beside the tensors of a safetensors file
    name: str = ""  # what results call it; "" = the file's name

    def __fspath__(self) -> str:
        return str(self.path)


def read(file: str | os.PathLike) -> WeightFile:
    """Reads and hashes a file of weights, in one pass over its bytes.

    Args:
        file: a `.safetensors` or `.npz` file; a `WeightFile` is returned as it is.

    Raises:
        ValueError: the file may carry code (a pickle, by its extension or by its first
            bytes), has another format, or lies about what it holds.
        FileNotFoundError: there is no such file.
    """
    if isinstance(file, WeightFile):
        return file
    path = Path(file)
    suffix = path.suffix.lower()
    if suffix in REFUSED:
        raise ValueError(_refusal(path, f"a {path.suffix} file"))
    if path.is_dir():
        raise ValueError(
            f"{path}: expected a .safetensors or .npz file, found a folder"
        )
    if path.exists() and not path.is_file():  # reading it might never end
        raise ValueError(
            f"{path}: expected a file of weights, found a device or a pipe"
        )
    data = path.read_bytes()
    if is_pickle(data):
        raise ValueError(_refusal(path, "pickled data"))
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(
            f"{path}: expected a .safetensors or .npz file, found {path.suffix!r}"
        )
    try:
        if suffix == ".npz":
            arrays, metadata = read_npz(data), {}
        else:
            arrays, metadata = read_safetensors(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return WeightFile(path, arrays, hashlib.sha256(data).hexdigest(), metadata)


def load(file: str | os.PathLike, like: Tree) -> Tree:
    """Reads weights from a file into the structure of `like`.

    Args:
        file: as for `read`; its names are the keys of the tree joined by "/", behind a
            common prefix or not.
        like: tree of arrays or of anything else with shape and dtype.

    Returns:
        The tree with NumPy arrays. Floating-point values take the dtype of `like`;
        other dtypes must agree.

    Raises:
        ValueError: the file is refused (see `read`), or names, shapes or dtypes differ.
            Then all differences are listed, and nothing is loaded.
        FileNotFoundError: there is no such file.
    """
    file = read(file)
    known = {name.partition("/")[0] for name in trees.by_name(like)}
    found = without_prefix(file.path, file.arrays, known.__contains__)
    return fit(file.path, found, like)


def without_prefix(
    path: str | os.PathLike,
    found: Mapping[str, np.ndarray],
    known: Callable[[str], bool],
) -> Mapping[str, np.ndarray]:
    """Returns the arrays without what all their names begin with, such as "module.".

    A network that was wrapped before it was saved has such names; what is left out is
    told.

    Args:
        path: where they come from, for the message.
        found: arrays by names whose parts are joined by "." or "/".
        known: says whether a first part belongs to the network and has to stay.
    """
    prefix = ""
    while True:
        begins = [FIRST_PART.match(name) for name in found]
        if not begins or not all(begins) or len({b[0] for b in begins}) > 1:
            break
        if known(begins[0][1]):
            break
        prefix += begins[0][0]
        found = {name[begins[0].end() :]: array for name, array in found.items()}
    if prefix:
        logging.warning("%s: all names begin with %s, which is left out", path, prefix)
    return found


def with_slashes(
    path: str | os.PathLike, found: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the arrays by names whose parts are joined by "/" instead of ".".

    Args:
        path: where they come from, for the message.
        found: name -> array.

    Raises:
        ValueError: two names become the same.
    """
    renamed = {place.replace(".", "/"): array for place, array in found.items()}
    if len(renamed) != len(found):
        raise ValueError(f"{path}: two names differ in '.' and '/' alone")
    return renamed


def check_finite(path: str | os.PathLike, found: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError, which names the arrays, where a value is not finite.

    Args:
        path: where they come from, for the message.
        found: name -> array.
    """
    bad = [place for place, array in found.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(
            f"{path}: {len(bad)} of its weights hold values that are not finite,"
            f" nothing was loaded: {', '.join(bad)}"
        )


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
    write_bytes(path, safetensors.numpy.save(arrays, dict(metadata or {}) or None))


def _refusal(path: Path, found: str) -> str:
    target = path.with_suffix(".safetensors").name
    return (
        f"{path}: expected weights as .safetensors or .npz, found {found}, which can"
        " run code when it is opened; where you trust its source, convert it first:"
        f" python -m experiments.convert_torch {path.name} {target}"
    )


def _form(leaf) -> str:
    return f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"


def _fits(found: np.ndarray, leaf) -> bool:
    floating = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (found, leaf))
    return found.shape == tuple(leaf.shape) and (floating or found.dtype == leaf.dtype)
