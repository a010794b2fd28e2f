"""The restriction network and the U-Net of 3DSR: the public networks' outputs.

How the stored outputs were made stands in tests/golden/README.md.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ad3d_jax.systems.dsr.detector import Config
from ad3d_jax.systems.dsr.networks import build

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "dsr_networks.npz"
NETWORKS = build(
    Config(code_dimensions=16, restriction_widths=(8, 16, 32), segmentation_width=4)
)
CASES = {  # array -> our network, seed, shape of the input
    "restriction": (NETWORKS["restriction_hi"], 71, (1, 16, 16, 16)),
    "segmentation": (NETWORKS["segmentation"], 72, (1, 32, 32, 8)),
}


def public_name(path):
    """Returns the public name of one of our parameters."""
    leaf = {"kernel": "weight", "bias": "bias"}[path[-1]]
    if path[0] == "head":
        return f"decoder.fin_out.0.{leaf}"
    block, number = path[0].split("_")
    level, place = int(block[-1]), 3 * (int(number) - 1)
    if block.startswith("down"):
        return f"encoder.block{level + 1}.{place}.{leaf}"
    if block.startswith("enlarge"):
        return f"decoder.up{3 - level}.1.{leaf}"
    return f"decoder.db{3 - level}.{place}.{leaf}"


def drawn(generator, shape):
    """Returns the next weight in PyTorch's order of axes, float32."""
    value = generator.standard_normal(shape)
    scale = 0.1 if len(shape) == 1 else np.sqrt(2.0 / np.prod(shape[1:]))
    return (scale * value).astype(np.float32)


@pytest.mark.parametrize("array", CASES)
def test_networks_are_3dsrs(array, parity):
    network, seed, shape = CASES[array]
    x = jnp.asarray(np.random.default_rng(seed + 100).standard_normal(shape), "float32")
    variables = jax.eval_shape(lambda k: network.init(k, x), jax.random.key(0))
    leaves = traverse_util.flatten_dict(dict(variables["params"]))
    generator, filled = np.random.default_rng(seed), {}
    for path in sorted(leaves, key=public_name):
        shape = leaves[path].shape
        value = drawn(
            generator, (shape[3], shape[2], *shape[:2]) if shape[1:] else shape
        )
        filled[path] = value.transpose(2, 3, 1, 0) if shape[1:] else value
    params = traverse_util.unflatten_dict(filled)
    y = jax.jit(lambda p: network.apply({"params": p}, x))(params)
    y = y[0] if isinstance(y, tuple) else y
    with np.load(GOLDEN) as golden:
        expected = golden[array]
    assert expected.std() > 0.5
    np.testing.assert_allclose(y[:, 1::2, ::2], expected, atol=1e-4, rtol=0)
    source = "VitjanZ/3DSR 6f83317"
    parity("3DSR", source, f"{array} network, forward", y[:, 1::2, ::2], expected)
