"""Files of M3DM's feature fusion: our own, and the published network converted."""

import os
from collections.abc import Mapping

import numpy as np

from ad3d_jax.base import Tree
from ad3d_jax.features import weights
from ad3d_jax.workdir import trees

# A public name is BRANCH_PART.PARAMETER; kernels are transposed.
BRANCHES = {"points": "xyz", "rgb": "rgb"}
LAYERS = {"norm": "norm", "expand": "mlp.fc1", "reduce": "mlp.fc2", "head": "head"}
PARAMETERS = {"scale": "weight", "kernel": "weight", "bias": "bias"}


def read_feature_fusion(file: str | os.PathLike, like: Tree) -> Tree:
    """Returns the parameters of `nn.feature_fusion.FeatureFusion` of a file.

    Args:
        file: what a phase has saved, or the release's network ("xyz_norm.weight", …;
            behind "model." or "module." or not), see `weights.read`.
        like: the parameters' structure and shapes.

    Raises:
        ValueError: see `weights.load`.
    """
    file = weights.read(file)
    found = weights.without_prefix(file.path, file.arrays, _known)
    if any(name.startswith("xyz_") for name in found):
        found = _renamed(found, like)
    return weights.fit(file.path, found, like)


def _known(first: str) -> bool:
    """Returns whether the first part of a name belongs to the network."""
    return first.partition("_")[0] in (*BRANCHES, *BRANCHES.values())


def public_name(name: str) -> str:
    """Returns the release's name of a parameter, such as "points/norm/scale"."""
    branch, layer, parameter = name.split("/")
    return f"{BRANCHES[branch]}_{LAYERS[layer]}.{PARAMETERS[parameter]}"


def _renamed(found: Mapping[str, np.ndarray], like: Tree) -> dict[str, np.ndarray]:
    """Returns arrays of public names under ours; others keep theirs."""
    ours = {public_name(name): name for name in trees.by_name(like)}
    return {
        ours.get(name, name): x.T if ours.get(name, "").endswith("kernel") else x
        for name, x in found.items()
    }
