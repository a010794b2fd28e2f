"""Files of the fusion: what was saved, the release's names, and faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ad3d_jax.features import weights
from ad3d_jax.features.feature_fusion import read_feature_fusion
from ad3d_jax.nn.feature_fusion import FeatureFusion


@pytest.fixture(scope="module")
def params():
    shapes = jnp.zeros((1, 6)), jnp.zeros((1, 4))
    return jax.jit(FeatureFusion().init)(jax.random.key(0), *shapes)["params"]


def public(params):
    """Returns the parameters as the release stores them."""
    found = {}
    for branch, name in (("points", "xyz"), ("rgb", "rgb")):
        part = params[branch]
        found[f"{name}_norm.weight"] = part["norm"]["scale"]
        found[f"{name}_norm.bias"] = part["norm"]["bias"]
        for ours, theirs in (
            ("expand", "mlp.fc1"),
            ("reduce", "mlp.fc2"),
            ("head", "head"),
        ):
            found[f"{name}_{theirs}.weight"] = part[ours]["kernel"].T
            found[f"{name}_{theirs}.bias"] = part[ours]["bias"]
    return {name: np.array(x, order="C") for name, x in found.items()}


@pytest.mark.parametrize("prefix", ["", "model.", "model.module."])
def test_public_names_are_understood(params, tmp_path, prefix):
    file = tmp_path / "uff.safetensors"
    arrays = {f"{prefix}{name}": x for name, x in public(params).items()}
    safetensors.numpy.save_file(arrays, file)
    found = read_feature_fusion(file, params)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_what_was_saved_is_read_again(params, tmp_path):
    file = tmp_path / "uff.safetensors"
    weights.save(file, params)
    found = read_feature_fusion(file, params)
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_faults_are_listed(params, tmp_path):
    file = tmp_path / "uff.safetensors"
    arrays = public(params)
    del arrays["rgb_head.bias"]
    arrays["xyz_mlp.fc3.weight"] = np.zeros((2, 2), np.float32)
    safetensors.numpy.save_file(arrays, file)
    with pytest.raises(
        ValueError, match="missing: rgb/head/bias(.|\n)*unexpected: xyz_"
    ):
        read_feature_fusion(file, params)
