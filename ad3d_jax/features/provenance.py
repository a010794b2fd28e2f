"""Whose weights a file holds, where sets that differ share all names and shapes."""

import hashlib
import os
from collections.abc import Mapping

import numpy as np

from ad3d_jax.features import weights
from ad3d_jax.features.known import KNOWN, SOURCES


def provenance(file: str | os.PathLike) -> str | None:
    """Returns which public set of weights a file holds, one of SOURCES, or None.

    The file is known by its own digest, where it comes from the hub; by that of the
    torch file that `experiments.convert_torch` made it from, as its metadata say; or by
    that of its tensors, whatever the file that carries them. None means unknown.

    Args:
        file: as for `weights.read`.
    """
    file = weights.read(file)
    torch = file.metadata.get("sha256", "")[:8]
    for known in KNOWN.values():
        if file.sha256 == known.sha256 or torch in known.torch:
            return known.source
    tensors = digest(file.arrays)
    for known in KNOWN.values():
        if tensors in known.tensors:
            return known.source
    return None


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of tensors: names, dtypes, shapes and bytes, sorted by name.

    Args:
        arrays: by names whose parts are joined by "." or "/", which are the same here.
    """
    total = hashlib.sha256()
    named = {name.replace("/", "."): array for name, array in arrays.items()}
    for name, array in sorted(named.items()):
        total.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def check_source(file: str | os.PathLike, accepted: tuple[str, ...]) -> str | None:
    """Returns `provenance(file)` where it is accepted or is not known.

    Args:
        file: as for `weights.read`.
        accepted: some of SOURCES; () = any.

    Raises:
        ValueError: the file is known to hold a set that is not accepted, or an accepted
            one is none of SOURCES.
    """
    for name in accepted:
        if name not in SOURCES:
            raise ValueError(
                f"model.source: expected one of {', '.join(SOURCES)} or nothing, found"
                f" {name!r}"
            )
    file = weights.read(file)
    found = provenance(file)
    if accepted and found not in (None, *accepted):
        raise ValueError(
            f"{file.path}: expected the weights {' or '.join(accepted)}, found {found},"
            " which have the same names and shapes but give other features (where that"
            f" is meant, set model.source to {found!r}, or to '' for any)"
        )
    return found


def describe(file: str | os.PathLike) -> dict[str, str | None]:
    """Returns what is said of weights beside a result.

    Args:
        file: as for `weights.read`.

    Returns:
        {"file": its name, "sha256": of its bytes, "source": `provenance`}.
    """
    file = weights.read(file)
    return {
        "file": file.name or file.path.name,
        "sha256": file.sha256,
        "source": provenance(file),
    }
