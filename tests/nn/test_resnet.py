"""The residual networks' form; their numbers: features/test_resnet_weights.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.public_resnets import public_shapes

from ad3d_jax.nn.resnet import LAYERS, RESNETS

KEY = jax.random.key(0)
TINY = RESNETS["resnet18"].clone(depths=(1, 1, 1, 1))
TINY_BOTTLENECK = RESNETS["resnet50"].clone(depths=(1, 1, 1, 1), width=8)


def shapes(network, layers, side=64):
    x = jnp.zeros((2, side, side, 3))
    return jax.eval_shape(lambda: network.init_with_output(KEY, x, layers))


@pytest.mark.parametrize("name", RESNETS)
def test_parameters_are_the_public_ones_with_folded_norms(name):
    public = public_shapes(name)
    expected = {
        (shape[2], shape[3], shape[1], shape[0])
        for shape in public.values()
        if len(shape) == 4
    }
    count = sum(
        np.prod(shape) + shape[0] for shape in public.values() if len(shape) == 4
    )
    _, variables = shapes(RESNETS[name], ("layer4",))
    leaves = jax.tree.leaves(variables)
    assert {leaf.shape for leaf in leaves if leaf.ndim == 4} == expected
    assert sum(leaf.size for leaf in leaves) == count
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (64, 64, 128, 256, 512)),
        ("resnet34", (64, 64, 128, 256, 512)),
        ("resnet50", (64, 256, 512, 1024, 2048)),
        ("wide_resnet101", (64, 256, 512, 1024, 2048)),
        ("wide_resnet50", (64, 256, 512, 1024, 2048)),
    ],
)
def test_sizes_of_the_taps(name, channels):
    maps, _ = shapes(RESNETS[name], LAYERS, 224)
    sides = (112, 56, 28, 14, 7)
    assert [m.shape for m in maps] == [
        (2, side, side, c) for side, c in zip(sides, channels, strict=True)
    ]
    odd, _ = shapes(RESNETS[name], ("layer3", "conv1"), 101)
    assert [m.shape[1] for m in odd] == [7, 51]  # rounded up at each halving


def test_nothing_behind_the_deepest_tap_is_made():
    _, variables = shapes(TINY, ("conv1", "layer2"))
    assert set(variables["params"]) == {"conv1", "layer1_0", "layer2_0"}
    assert set(variables["params"]["layer1_0"]) == {"conv1", "conv2"}
    assert set(variables["params"]["layer2_0"]) == {"conv1", "conv2", "downsample"}
    _, variables = shapes(TINY, ("conv1",))
    assert set(variables["params"]) == {"conv1"}


@pytest.mark.parametrize("network", [TINY, TINY_BOTTLENECK])
def test_paddings_are_symmetric(network):
    """A mirrored image of odd side gives mirrored maps, if kernels are mirrored.

    With odd sides every strided grid is symmetric about the middle; "SAME" or one-sided
    padding would not be.
    """

    @jax.jit
    def run(key):
        x = jax.random.normal(key, (1, 65, 65, 3))
        variables = network.init(key, x, LAYERS)
        mirrored = jax.tree.map(
            lambda leaf: leaf + leaf[:, ::-1] if leaf.ndim == 4 else leaf, variables
        )
        return [network.apply(mirrored, x, LAYERS) for x in (x, x[:, :, ::-1])]

    for one, other in zip(*run(KEY), strict=True):
        scale = float(jnp.abs(one).max())
        np.testing.assert_allclose(one, other[:, :, ::-1], atol=1e-5 * scale)
        assert float(jnp.abs(one - other).max()) > 0.01 * scale


def test_constant_images_give_constant_maps_inside():
    """Of 56 cells a side, 5 to 51 see no border through stem and layer1 (35 pixels)."""
    network = RESNETS["resnet50"]

    @jax.jit
    def run(key):
        x = jnp.ones((1, 224, 224, 3))
        variables = network.init(key, x, ("layer1",))
        # Biases, so that the zeros of the paddings differ from the inside.
        variables = jax.tree.map(lambda v: v + 0.3 if v.ndim == 1 else v, variables)
        return network.apply(variables, x, ("layer1",))[0]

    y = np.asarray(run(KEY))
    difference = np.abs(y - y[:, 28:29, 28:29]).max((0, 3))
    assert difference[5:52, 5:52].max() < 1e-4
    assert min(difference[n, 28] for n in (4, 52)) > 1e-3
    assert min(difference[28, n] for n in (4, 52)) > 1e-3


def test_random_weights_keep_the_scale_over_the_depth():
    x = jax.random.normal(KEY, (1, 64, 64, 3))

    def run(key):
        return RESNETS["resnet18"].init_with_output(key, x, LAYERS)[0]

    for m in jax.jit(run)(KEY):
        assert 0.5 < float(jnp.sqrt(jnp.mean(m**2))) < 10
