import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.nn.paired_unet import PairedUNet
from ad3d_jax.nn.rows import Rows
from ad3d_jax.nn.unet import UNet

WIDTHS = (4, 6, 8)
PAIRED = PairedUNet(WIDTHS)


def inputs(rows=3, side=16):
    keys = jax.random.split(jax.random.key(1))
    return [
        jax.random.normal(key, (rows, side, side, channels))
        for key, channels in zip(keys, (6, 2), strict=True)
    ]


@pytest.fixture(scope="module")
def variables():
    return jax.jit(lambda: PAIRED.init(jax.random.key(0), *inputs()))()


@pytest.mark.parametrize("seen", [0, 1])
def test_it_is_a_unet_where_each_join_takes_one_side(variables, seen):
    params = dict(variables["params"])
    for level, width in enumerate(WIDTHS):
        kernel = np.zeros((1, 1, 2 * width, width), np.float32)
        kernel[0, 0, seen * width : (seen + 1) * width] = np.eye(width)
        params[f"join{level}"] = {"kernel": kernel, "bias": np.zeros(width)}
    given = inputs()
    found, sums = PAIRED.apply(
        {**variables, "params": params}, *given, Rows(True), mutable=["sums"]
    )

    prefix = ("first", "second")[seen]

    def as_unet(tree):
        return {
            name.replace(prefix, "down"): value
            for name, value in tree.items()
            if name.startswith((prefix, "enlarge", "up", "head"))
        }

    unet = {"params": as_unet(params), "batch_stats": as_unet(variables["batch_stats"])}
    expected, expected_sums = UNet(WIDTHS).apply(
        unet, given[seen], Rows(True), mutable=["sums"]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.shape == (3, 16, 16, 2) and float(jnp.std(found)) > 1e-3
    assert set(as_unet(sums["sums"])) == set(expected_sums["sums"])


def test_both_sides_count(variables):
    first, second = inputs()
    run = jax.jit(
        lambda *x: PAIRED.apply(variables, *x, Rows(True), mutable=["sums"])[0]
    )
    whole = run(first, second)
    assert np.any(np.abs(whole - run(first**2, second)) > 1e-3)
    assert np.any(np.abs(whole - run(first, second**2)) > 1e-3)


def test_size_by_hand():
    """Convolutions 9 i o + o, norms 2 o, joins 2 w w + w, as a sum over the layers."""
    w = (32, 64, 128, 256, 256)

    def convs(*channels):
        return sum(
            9 * i * o + 3 * o for i, o in zip(channels, channels[1:], strict=False)
        )

    def encoder(channels):
        return sum(convs(i, o, o) for i, o in zip((channels, *w), w, strict=False))

    joins = sum(2 * o * o + o for o in w)
    # Enlarged and convolved, joined with the skip, convolved twice; deepest first.
    ups = [(256, 128, 256), (128, 64, 128), (64, 32, 64), (32, 32, 32)]
    decoder = sum(convs(i, o) + convs(o + skip, o, o) for i, o, skip in ups)
    expected = encoder(6) + encoder(2) + joins + decoder + 9 * 32 * 2 + 2
    shapes = jax.eval_shape(
        lambda: PairedUNet().init(jax.random.key(0), *inputs(1, 32))
    )
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == expected


def test_an_indivisible_size_is_refused(variables):
    with pytest.raises(ValueError, match="divisible by 4, found 18x18"):
        PAIRED.apply(variables, *inputs(1, 18))
