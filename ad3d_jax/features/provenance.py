"""Whose weights a file holds, where sets that differ share all names and shapes."""

import os
from pathlib import Path

from ad3d_jax.features import weights
from ad3d_jax.features.safetensors_header import read_metadata

# The first digits of the SHA-256 of public torch files, as they stand in the files'
# names, and the set's name as timm tags it. All are trained on ImageNet-1k.
SOURCES = {
    # torchvision IMAGENET1K_V1, of some networks in two files with the same tensors
    "f37072fd": "tv_in1k",  # resnet18
    "5c106cde": "tv_in1k",  # resnet18
    "0676ba61": "tv_in1k",  # resnet50
    "19c8e357": "tv_in1k",  # resnet50
    "95faca4d": "tv_in1k",  # wide_resnet50_2
    # torchvision IMAGENET1K_V2
    "11ad3fa6": "tv2_in1k",  # resnet50
    "9ba9bcbe": "tv2_in1k",  # wide_resnet50_2
    # timm
    "8234f177": "racm_in1k",  # wide_resnet50_2
    "d63eafa0": "a1_in1k",  # resnet18
    "14fe96d1": "a1_in1k",  # resnet50
    "a2746f79": "a2_in1k",  # resnet50
    "40c531c8": "a3_in1k",  # resnet18
    "59cae1ef": "a3_in1k",  # resnet50
    "6c502b37": "am_in1k",  # resnet50
    "0757602b": "gluon_in1k",  # resnet18
    "0ebe02e2": "gluon_in1k",  # resnet50
}


def provenance(path: str | os.PathLike) -> str | None:
    """Returns which public set of weights a file holds, a value of SOURCES, or None.

    `tools/convert_torch.py` writes the SHA-256 of the torch file that it converted into
    the metadata; that digest is looked up, as the file says it. None means unknown, and
    is the answer for every npz file and every folder.

    Args:
        path: a file or folder that `weights.read` accepts.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() != ".safetensors":
        return None
    return SOURCES.get(read_metadata(path).get("sha256", "")[:8])


def check_source(path: str | os.PathLike, expected: str) -> str | None:
    """Returns `provenance(path)` where it is what is expected or is not known.

    Args:
        path: as for `provenance`.
        expected: a value of SOURCES, or "" for any.

    Raises:
        ValueError: the file holds another set than the expected one, or the expected
            one is no value of SOURCES.
    """
    known = sorted(set(SOURCES.values()))
    if expected and expected not in known:
        raise ValueError(
            f"backbone.source: expected one of {', '.join(known)} or nothing, found"
            f" {expected!r}"
        )
    found = provenance(path)
    if expected and found not in (None, expected):
        raise ValueError(
            f"{path}: expected the weights {expected}, found {found}, which have the"
            " same names and shapes but give other features (where that is meant, set"
            f" backbone.source to {found!r}, or to '' for any)"
        )
    return found


def describe(path: str | os.PathLike) -> dict[str, str | None]:
    """Returns what is said of weights beside a result.

    Args:
        path: as for `provenance`.

    Returns:
        {"file": its name, "sha256": `weights.fingerprint`, "source": `provenance`}.
    """
    return {
        "file": Path(path).name,
        "sha256": weights.fingerprint(path),
        "source": provenance(path),
    }
