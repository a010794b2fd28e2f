"""Weights of Shape-Guided's networks of signed distances, in this library's names."""

import os
from collections.abc import Mapping

import numpy as np

from ad3d_jax.base import Tree
from ad3d_jax.features import weights

OWN = ("encoder", "decoder", "batch_stats")
PUBLIC = ("encoder", "NIF")
STATISTICS = {"running_mean": "mean", "running_var": "var"}
PASSED_OVER = "num_batches_tracked"


def read_signed_distance(file: str | os.PathLike, like: Tree) -> Tree:
    """Returns encoder, decoder and the encoder's batch statistics from a file.

    Names are this library's, or those of the public checkpoints as
    `experiments.convert_torch` leaves them: `sdf_model/encoder/conv1/weight`,
    `sdf_model/NIF/fc40/weight_v` and so on, a common prefix or not.

    Args:
        file: see `weights.read`.
        like: {"encoder": …, "decoder": …, "batch_stats": …}, of arrays or shapes.

    Raises:
        ValueError: the file is refused (see `weights.read`), or names or shapes do not
            fit, with a list of them all.
        FileNotFoundError: there is no such file.
    """
    file = weights.read(file)
    found = {name.replace(".", "/"): array for name, array in file.arrays.items()}
    found = weights.without_prefix(file.path, found, {*OWN, *PUBLIC}.__contains__)
    if any(name.startswith("NIF/") for name in found):
        found = _renamed(found)
    return weights.fit(file.path, found, like)


def _renamed(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of public names under this library's, axes as here."""
    renamed = {}
    for name, array in found.items():
        network, *layer, part = name.split("/")
        if part == PASSED_OVER:
            continue
        place = "/".join(["decoder" if network == "NIF" else network, *layer])
        if part in STATISTICS:
            renamed[f"batch_stats/{place}/{STATISTICS[part]}"] = array
        elif part == "weight" and "bn" in name:
            renamed[f"{place}/scale"] = array
        elif part in ("weight", "weight_v"):
            # [out,in], or [out,in,1] of a convolution over points.
            kernel = array.reshape(array.shape[:2]).T
            renamed[_joined(f"{place}/kernel")] = np.ascontiguousarray(kernel)
        elif part == "weight_g":
            renamed[f"{place}/scale"] = array.reshape(-1)
        else:
            renamed[_joined(f"{place}/{part}")] = array
    return renamed


def _joined(name: str) -> str:
    """Returns the name of the layer in two halves, or a name as it is."""
    return name.replace("decoder/fc3/", "decoder/fc3_")
