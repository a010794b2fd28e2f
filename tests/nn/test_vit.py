"""The vision transformers' form; their numbers: features/test_vit_weights.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.public_vits import FORMS, public_shapes

from ad3d_jax.nn.vit import VITS, VisionTransformer, attention

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
    layers = ("block1", "norm3", "norm12")
    found, _ = shapes(VITS["vit_base_patch8_224"], layers)
    assert [y.shape for y in found] == 3 * [(2, 785, 768)]
    found, _ = shapes(VITS["vit_small_patch14_reg4_dinov2"], layers, 392, 28)
    assert [y.shape for y in found] == 3 * [(2, 5 + 28 * 2, 384)]


def test_nothing_behind_the_deepest_tap_is_made():
    shallow = {"patches", "prefix", "positions", "norm", "block1"}
    _, variables = shapes(TINY, ("norm1",))
    assert set(variables["params"]) == shallow
    _, variables = shapes(TINY, ("block1", "norm2"))
    assert set(variables["params"]) == shallow | {"block2"}
    assert TINY.layers == ("block1", "norm1", "block2", "norm2")
    assert [TINY.reach((layer,)) for layer in TINY.layers] == [1, 1, 2, 2]


def test_samples_do_not_see_each_other():
    q, k, v = jax.random.normal(KEY, (3, 2, 2, 5, 4))
    both = attention(q, k, v)
    for sample in range(2):
        one = attention(*(x[sample : sample + 1] for x in (q, k, v)))
        np.testing.assert_allclose(both[sample], one[0], atol=1e-6)
    # One token sees itself alone; equal keys see the mean of all values.
    np.testing.assert_allclose(
        attention(q[:, :, :1], k[:, :, :1], v[:, :, :1]), v[:, :, :1], rtol=1e-6
    )
    mean = jnp.broadcast_to(v.mean(2, keepdims=True), v.shape)
    np.testing.assert_allclose(attention(q, jnp.ones_like(k), v), mean, atol=1e-6)


def test_random_weights_keep_the_scale_over_the_depth():
    network = TINY.clone(width=64, heads=4, depth=8)
    x = jax.random.normal(KEY, (1, 12, 12, 3))

    def run(key):
        return network.init_with_output(key, x, network.layers[::2])[0]

    for tokens in jax.jit(run)(KEY):
        assert 0.5 < float(jnp.sqrt(jnp.mean(tokens[:, 2:] ** 2))) < 10
