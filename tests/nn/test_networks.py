import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.base import ALONE, Across
from ad3d_jax.nn.auto_encoder import AutoEncoder, scaled
from ad3d_jax.nn.conv import Conv
from ad3d_jax.nn.importance import ImportanceScoring, PairEmbed
from ad3d_jax.nn.res_unet import ResUnet
from ad3d_jax.nn.rows import Rows
from ad3d_jax.nn.swin_unet import SwinUnet
from ad3d_jax.nn.unet import UNet

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
TRAINING = Rows(train=True)
TINY_SWIN = SwinUnet(3, embed=8, depths=(2, 1), heads=(2, 4), window=4, scales=3)
TINY_RES = ResUnet(3, widths=(4, 6, 8, 8))
TINY_UNET = UNet(widths=(4, 6, 8))
TINY_AUTO = AutoEncoder((4, 6, 8), ((8, 8, 6), (6, 6, 4)))
SUBSPACE = AutoEncoder(
    (128, 256, 512), ((256, 256, 256), (128, 128, 128)), norm="instance"
)
SEGMENT = UNet((64, 128, 256, 256), up_widths=(256, 128, 64), norm="instance")
SEGMENT_3D = UNet((32, 64, 128, 128), up_widths=(128, 64, 32), norm="instance")


def images(rows, channels, side=32):
    return jnp.asarray(RNG.random((rows, side, side, channels)), jnp.float32)


def count(network, *inputs):
    shapes = jax.eval_shape(lambda key: network.init(key, *inputs), KEY)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("network", "channels", "expected"),
    [
        (UNet(), 6, 28_374_146),
        (UNet(first_convs=1), 64, 28_370_498),
        (PairEmbed(), 2, 1_344),
        (AutoEncoder(), 3, 69_048_579),  # DRAEM's reconstructive network
        (SUBSPACE.clone(out_channels=256), 256, 8_113_280),  # 3DSR's
        (SUBSPACE.clone(out_channels=128), 128, 7_818_240),  # DSR's
        (SEGMENT_3D, 8, 1_405_090),  # 3DSR's, of two modalities
        (SEGMENT_3D, 2, 1_403_362),  # 3DSR's, of depth
        (SEGMENT, 6, 5_610_690),  # DSR's
        (SEGMENT, 8, 5_611_842),  # DSR's, for upsampling
    ],
)
def test_parameters_of_the_convolutional_parts(network, channels, expected):
    assert count(network, jnp.zeros((1, 256, 256, channels)), TRAINING) == expected


def test_parameters_of_importance_scoring():
    features = jnp.zeros((1, 64, 64, 64))
    assert count(ImportanceScoring(), features, features, TRAINING) == 150_146


@pytest.mark.parametrize(
    ("size", "channels", "scales", "window", "depths", "outputs", "expected"),
    [
        (256, 3, 1, 8, (2, 2, 4, 2), 3, 34_284_372),
        (256, 1, 1, 8, (2, 2, 4, 2), 1, 34_281_108),
        (224, 3, 1, 7, (2, 2, 4, 2), 3, 34_274_292),
        (224, 3, 1, 7, (2, 2, 2, 2), 9, 27_168_900),
        (256, 3, 3, 8, (2, 2, 4, 2), 3, 34_285_242),
        (256, 1, 3, 8, (2, 2, 4, 2), 1, 34_281_398),
    ],
)
def test_parameters_of_the_swin_unet(
    size, channels, scales, window, depths, outputs, expected
):
    network = SwinUnet(outputs, depths=depths, window=window, scales=scales)
    assert (
        count(network, jnp.zeros((1, size, size, channels)), None, TRAINING) == expected
    )


@pytest.mark.parametrize("network", [ResUnet(3), SwinUnet(3)])
@pytest.mark.parametrize("scales", [1, 2, 3])
def test_resolutions_of_the_heads(network, scales):
    network = network.clone(scales=scales)
    x = jnp.zeros((2, 256, 256, 3))
    found, _ = jax.eval_shape(lambda key: network.init_with_output(key, x), KEY)
    expected = [(2, side, side, 3) for side in (256, 64, 32)][:scales]
    assert [image.shape for image in found] == expected


def test_swin_as_discriminator():
    network = SwinUnet(2, depths=(2, 2, 2, 2), skip_dropout=(), scales=1)
    x = jnp.zeros((2, 256, 256, 64))
    (logits,), _ = jax.eval_shape(
        lambda key: network.init_with_output(key, x, None, TRAINING), KEY
    )
    assert logits.shape == (2, 256, 256, 2)


def test_another_width_of_the_auto_encoder():
    assert AutoEncoder(*scaled(128)) == AutoEncoder()
    small = AutoEncoder(*scaled(8))
    (y, features), _ = jax.eval_shape(
        lambda key: small.init_with_output(key, jnp.zeros((2, 32, 32, 3)), TRAINING),
        KEY,
    )
    assert y.shape == (2, 32, 32, 3)
    sides = [(32, 8), (16, 16), (8, 32), (4, 64), (2, 64)]
    assert [(b.shape[1], b.shape[3]) for b in features.encoder] == sides
    sides = [(4, 32), (8, 16), (16, 8), (32, 8)]
    assert [(b.shape[1], b.shape[3]) for b in features.decoder] == sides


def test_the_auto_encoder_has_no_skips():
    """Nothing but the deepest block reaches the output."""
    x = images(2, 3, 16)
    variables = jax.jit(lambda key: TINY_AUTO.init(key, x))(KEY)
    flat = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if "down2_2" in str(path) else leaf,
        variables,
    )
    first, _ = TINY_AUTO.apply(flat, x)
    second, _ = TINY_AUTO.apply(flat, 1.0 - x)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (UNet((4, 6, 8), up_widths=(6,)), "2 levels above the deepest need as many"),
        (AutoEncoder((4, 6), ()), "2 blocks need one stage less"),
        (UNet((4, 6), norm="layer"), "'batch' or 'instance', found 'layer'"),
    ],
)
def test_impossible_networks_are_named(network, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda key: network.init(key, images(1, 3), TRAINING), KEY)


@pytest.mark.parametrize("network", [TINY_SWIN, TINY_RES, TINY_UNET, TINY_AUTO])
def test_indivisible_sizes_are_named(network):
    with pytest.raises(ValueError, match="divisible by 8, found 30x30|by 4, found 30x"):
        network.init(KEY, jnp.zeros((1, 30, 30, 3)))
    with pytest.raises(ValueError, match="10x10 tokens of stage 1"):
        TINY_SWIN.init(KEY, jnp.zeros((1, 40, 40, 3)))


@pytest.mark.parametrize(
    "field",
    [
        {"kernel_dilation": 2},
        {"input_dilation": 2},
        {"feature_group_count": 3},
        {"precision": jax.lax.Precision.HIGHEST},
    ],
)
def test_what_a_convolution_does_not_have_is_refused(field):
    layer = Conv(3, (3, 3), **field)
    with pytest.raises(ValueError, match="no dilation, no groups"):
        layer.init(KEY, images(1, 3))


def test_stride_two_halves_the_pair_embedding():
    network = PairEmbed(4, stride=2)
    shape = jax.eval_shape(
        lambda key: network.init_with_output(key, images(2, 2), TRAINING), KEY
    )[0].shape
    assert shape == (2, 16, 16, 4)


def test_importance_weights_sum_to_one_and_equal_inputs_pass_through():
    network = ImportanceScoring(4)
    first, second = images(2, 4, 8), images(2, 4, 8)
    variables = network.init(KEY, first, second, TRAINING)
    fused, weights = network.apply(variables, first, second)
    assert weights.shape == (2, 8, 8, 2)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
    expected = weights[..., :1] * first + weights[..., 1:] * second
    np.testing.assert_allclose(fused, expected, rtol=1e-5, atol=1e-6)
    same, _ = network.apply(variables, first, first)
    np.testing.assert_array_equal(same, first)


def test_importance_of_each_channel_weighs_it_alone():
    network = ImportanceScoring(4, each_channel=True)
    first, second = images(2, 4, 8), images(2, 4, 8)
    variables = network.init(KEY, first, second, TRAINING)
    score = variables["params"]["score"]
    score["kernel"] = jnp.zeros_like(score["kernel"])
    logits = np.float32([-2, -1, 0, 1, 2, 1, 0, 3])
    score["bias"] = jnp.asarray(logits)
    fused, weights = network.apply(variables, first, second)
    shares = 1 / (1 + np.exp(-logits))
    one, other = np.asarray(first), np.asarray(second)
    expected = shares[:4] * one + shares[4:] * other
    np.testing.assert_allclose(fused, expected, rtol=1e-5)
    means = np.broadcast_to([shares[:4].mean(), shares[4:].mean()], (2, 8, 8, 2))
    np.testing.assert_allclose(weights, means, rtol=1e-5)


@pytest.mark.parametrize("network", [TINY_SWIN, TINY_RES])
def test_skip_dropout_follows_the_keys_and_each_row_its_own(network):
    x = images(3, 3)
    variables = jax.jit(lambda key: network.init(key, x))(KEY)
    keys = jax.random.split(jax.random.key(7), 3)

    @jax.jit
    def run(x, keys):
        return network.apply(variables, x, keys)[0]

    y = run(x, keys)
    np.testing.assert_array_equal(run(x, keys), y)
    assert np.abs(run(x, jax.random.split(jax.random.key(8), 3)) - y).max() > 1e-4
    assert np.abs(network.apply(variables, x)[0] - y).max() > 1e-4
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(run(x[order], keys[order]), y[order], atol=1e-5)


def test_stochastic_depth_is_for_training_alone():
    network = TINY_SWIN.clone(drop_path=0.5, skip_dropout=())
    x = images(3, 3)
    variables = jax.jit(lambda key: network.init(key, x))(KEY)
    keys = jax.random.split(jax.random.key(7), 3)
    without = network.apply(variables, x, None, TRAINING)[0]
    np.testing.assert_array_equal(network.apply(variables, x, keys)[0], without)
    assert np.abs(network.apply(variables, x, keys, TRAINING)[0] - without).max() > 1e-4


def test_rematerialisation_changes_nothing():
    x = images(2, 3)
    variables = jax.jit(lambda key: TINY_SWIN.init(key, x))(KEY)
    keys = jax.random.split(jax.random.key(7), 2)

    def gradient(network):
        def loss(params):
            return sum(
                (y**2).mean()
                for y in network.apply({"params": params}, x, keys, TRAINING)
            )

        return jax.jit(jax.grad(loss))(variables["params"])

    plain, again = gradient(TINY_SWIN), gradient(TINY_SWIN.clone(remat=True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        plain,
        again,
    )


def test_shifted_windows_do_not_see_across_the_border():
    """A pixel in the first corner must not reach the last through the cyclic shift."""
    network = TINY_SWIN.clone(depths=(2,), heads=(2,), window=4, scales=1)
    x = images(1, 3, 64)
    variables = jax.jit(lambda key: network.init(key, x))(KEY)
    moved = network.apply(variables, x.at[0, 0, 0, 0].add(1.0))[0]
    change = np.abs(moved - network.apply(variables, x)[0]).max((0, 3))
    assert change[0, 0] > 1e-4
    # Two windowed blocks down: tokens 0..5 can see token 0, which is 24 pixels.
    assert change[24:].max() == 0 and change[:, 24:].max() == 0


def train_once(network, variables, x, keys, weight, across):
    def loss(params):
        inputs = (x,) if keys is None else (x, keys)
        y, written = network.apply(
            {**variables, "params": params},
            *inputs,
            rows=Rows(True, weight, across),
            mutable=["sums"],
        )
        y = y if isinstance(y, jax.Array) else y[0]
        error = ((y - 0.5) ** 2).mean((1, 2, 3))
        total = (error * weight).sum() / across.sum(weight.sum())
        return total, (y, written["sums"])

    (total, (y, sums)), gradient = jax.value_and_grad(loss, has_aux=True)(
        variables["params"]
    )
    return total, y, sums, gradient


@pytest.mark.parametrize(
    "network",
    [
        TINY_RES.clone(widths=(4, 6)),
        TINY_UNET.clone(widths=(4, 6)),
        AutoEncoder((4, 6), ((6, 6, 4),)),
    ],
)
def test_devices_and_padding_change_nothing(network):
    x = images(8, 3, 16).at[5:].set(0.0)
    weight = jnp.array([1.0] * 5 + [0.0] * 3)
    keys = (
        jax.random.split(jax.random.key(3), 8) if isinstance(network, ResUnet) else None
    )
    variables = jax.jit(lambda key: network.init(key, x))(KEY)
    real = jax.tree.map(lambda leaf: leaf[:5], (x, keys, weight))
    expected = jax.jit(lambda a: train_once(network, variables, *a, ALONE))(real)
    across = Across(lambda v: jax.lax.psum(v, "devices"), lambda v: v)
    split = jax.tree.map(lambda v: v.reshape(4, 2, *v.shape[1:]), (x, keys, weight))
    total, y, sums, gradient = jax.jit(
        jax.vmap(
            lambda a: train_once(network, variables, *a, across), axis_name="devices"
        )
    )(split)
    assert np.isfinite(y).all()
    np.testing.assert_allclose(total.sum(), expected[0], rtol=1e-5)
    y = y.reshape(8, *y.shape[2:])[:5]
    np.testing.assert_allclose(y, expected[1], rtol=1e-4, atol=1e-4)

    def close(a, b):
        np.testing.assert_allclose(a.sum(0), b, rtol=1e-3, atol=2e-4)

    jax.tree.map(close, sums, expected[2])
    jax.tree.map(close, gradient, expected[3])


@pytest.mark.parametrize("network", [TINY_SWIN, TINY_RES])
def test_bfloat16_keeps_float32_parameters_and_outputs(network):
    network = network.clone(dtype=jnp.bfloat16)
    x = images(1, 3)
    outputs, variables = jax.eval_shape(
        lambda key: network.init_with_output(key, x), KEY
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, variables))} == {
        jnp.dtype("float32")
    }
