"""The vision transformers' form; their numbers: features/test_vit_weights.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.public_vits import FORMS, public_shapes

from ad3d_jax.nn.transformer import attention
from ad3d_jax.nn.vit import VITS, VisionTransformer

KEY = jax.random.key(0)
TINY = VisionTransformer(4, 8, 2, grid=3, depth=2, registers=1)


def shapes(network, layers, height=224, width=224):
    x = jnp.zeros((2, height, width, 3))
    return jax.eval_shape(lambda: network.init_with_output(KEY, x, layers))


@pytest.mark.parametrize("name", VITS)
def test_parameters_are_the_public_ones_with_folded_scales(name):
    """One position, of the class token, and the scales of residual branches are in."""
    public = public_shapes(name)
    registers, width = FORMS[name][3], FORMS[name][1]
    folded = 24 * width if registers else width
    expected = sum(np.prod(shape) for shape in public.values()) - folded
    _, variables = shapes(VITS[name], ("norm12",))
    leaves = jax.tree.leaves(variables)
    assert sum(leaf.size for leaf in leaves) == expected
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_sizes_of_the_taps():
    layers = ("block1", "norm2")
    found, _ = shapes(VITS["vit_base_patch8_224"], layers)
    assert [y.shape for y in found] == 2 * [(2, 785, 768)]
    found, _ = shapes(VITS["vit_small_patch14_reg4_dinov2"], layers, 392, 28)
    assert [y.shape for y in found] == 2 * [(2, 5 + 28 * 2, 384)]


def test_nothing_behind_the_deepest_tap_is_made():
    shallow = {"patches", "prefix", "positions", "norm", "block1"}
    _, variables = shapes(TINY, ("norm1",))
    assert set(variables["params"]) == shallow
    _, variables = shapes(TINY, ("block1", "norm2"))
    assert set(variables["params"]) == shallow | {"block2"}
    assert TINY.layers == ("block1", "norm1", "block2", "norm2")
    assert [TINY.reach((layer,)) for layer in TINY.layers] == [1, 1, 2, 2]


def test_samples_do_not_see_each_other():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 2, 5, 4), np.float32)
    attend = jax.jit(attention)
    both = attend(q, k, v)
    alone = attend(q[[0, 0]], k[[0, 0]], v[[0, 0]])
    np.testing.assert_array_equal(alone, [both[0], both[0]])
    # Equal keys give the mean of the values, one that stands out its own value.
    np.testing.assert_allclose(
        attend(q, np.ones_like(k), v),
        np.repeat(v.mean(2, keepdims=True), 5, 2),
        atol=1e-6,
    )
    k[:, :, 3] = 1000 * q[:, :, 0]
    np.testing.assert_allclose(attend(q, k, v)[:, :, 0], v[:, :, 3], atol=1e-6)


def test_random_weights_keep_the_scale_over_the_depth():
    network = TINY.clone(width=64, heads=4, depth=4)
    x = jax.random.normal(KEY, (1, 12, 12, 3))

    def run(key):
        return network.init_with_output(key, x, network.layers[::2])[0]

    for tokens in jax.jit(run)(KEY):
        assert 0.5 < float(jnp.sqrt(jnp.mean(tokens[:, 2:] ** 2))) < 10
