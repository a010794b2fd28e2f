"""The discrete auto-encoders and object decoders: public outputs, sizes, groups.

How the stored outputs were made stands in tests/golden/README.md.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from ad3d_jax.nn.discrete_auto_encoder import DiscreteAutoEncoder
from ad3d_jax.nn.grouped_conv import GroupedEnlarge
from ad3d_jax.nn.object_decoder import ObjectDecoder
from ad3d_jax.ops.codebook import Codebook, init_codebook
from ad3d_jax.systems.dsr import published
from ad3d_jax.systems.dsr.auto_encoder import forward

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "discrete_models.npz"
SMALL = dict(hidden=32, residual=16, dimensions=32)
MODELS = {  # name -> our network, seed of its weights
    "dada": (DiscreteAutoEncoder((1, 3), **SMALL), 48),
    "dada_depth": (DiscreteAutoEncoder((1,), **SMALL), 42),
    "dsr": (DiscreteAutoEncoder((3,), relu_skip=True, **SMALL), 60),
}
DECODERS = {
    "decoder_3dsr": (ObjectDecoder(4, 24, 32, 16, bottleneck=64), 51),
    "decoder_dsr": (ObjectDecoder(3, 24, 32, 16, bottleneck=64), 52),
}
CODES = 48
_3DSR = "3DSR", "VitjanZ/3DSR 6f83317"
_DSR = "DSR", "VitjanZ/DSR_anomaly_detection 672bfb8"
SOURCES = {
    **dict.fromkeys(("dada", "dada_depth", "decoder_3dsr"), _3DSR),
    **dict.fromkeys(("dsr", "decoder_dsr"), _DSR),
}
DECODER_LAYERS = {
    "down0_1": "block1/0",
    "down0_2": "block1/3",
    "down1_1": "block2/0",
    "down1_2": "block2/3",
    "bottleneck": "pre_vq_conv",
    "up1": "upblock1",
    "up2": "upblock2",
    "render_1": "_conv_1",
    "stack": "",
    "render_2": "_conv_trans_1",
    "render_3": "_conv_trans_2",
}
TRANSPOSED = (*published.TRANSPOSED, "up1", "up2", "render_2", "render_3")


@pytest.fixture(autouse=True, scope="module")
def decoders_too():
    """Lets the mapping of the auto-encoders serve the object decoders as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "LAYERS", {**published.LAYERS, **DECODER_LAYERS})
        patch.setattr(published, "TRANSPOSED", TRANSPOSED)
        yield


def public_shape(path, shape, groups):
    """Returns the shape in PyTorch's order."""
    if len(shape) != 4:
        return shape
    height, width, inputs, outputs = shape
    if path[0] in TRANSPOSED:
        return inputs * groups, outputs // groups, height, width
    return outputs, inputs, height, width


def drawn(generator, shape):
    """Returns the next weight, scaled by its kind so that signals keep their size."""
    value = generator.standard_normal(shape)
    scale = {1: 0.1, 2: 1.0}.get(len(shape)) or np.sqrt(2.0 / np.prod(shape[1:]))
    return (scale * value).astype(np.float32)


def public_weights(module, seed, x, groups=1, codebooks=()):
    """Returns the arrays of the public network by its names, and our names of them."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    leaves = traverse_util.flatten_dict({"params": dict(shapes)})
    ours = {}
    for path in leaves:
        name = published.public_name("/".join(path), groups > 1)
        ours[name.lstrip("/").replace("/", ".")] = path
    assert len(ours) == len(leaves)
    generator, found = np.random.default_rng(seed), {}
    for name in sorted([*ours, *codebooks]):
        if name in codebooks:
            shape = CODES, SMALL["dimensions"]
        else:
            layer, *_ = path = ours[name][1:]
            own = 1 if layer[:5] in ("stems", "heads") else groups
            shape = public_shape(path, leaves[ours[name]].shape, own)
        found[name] = drawn(generator, shape)
    return found, {name: (path, leaves[path]) for name, path in ours.items()}


def as_ours(public, ours):
    """Returns our parameters of the public arrays."""
    found = {
        path[1:]: jnp.asarray(published.reordered("/".join(path), public[name], like))
        for name, (path, like) in ours.items()
    }
    return traverse_util.unflatten_dict(found)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", MODELS)
def test_a_converted_auto_encoder_is_the_public_one(name, golden, tmp_path, parity):
    module, seed = MODELS[name]
    shape = (2, 32, 32, sum(module.channels))
    x = 2 * np.random.default_rng(seed + 100).standard_normal(shape)
    x = jnp.asarray(x, jnp.float32)
    levels = published.CODEBOOKS
    books = {level: f"{levels[level]}._embedding.weight" for level in levels}
    public, _ = public_weights(module, seed, x, len(module.channels), books.values())
    for place in levels.values():
        public[f"{place}._ema_cluster_size"] = np.ones(CODES, np.float32)
        public[f"{place}._ema_w"] = public[f"{place}._embedding.weight"]
    path = tmp_path / "converted.safetensors"
    save_file({n.replace(".", "/"): array for n, array in public.items()}, path)
    book = jax.eval_shape(lambda key: init_codebook(key, CODES, 32), jax.random.key(0))
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    like = {"params": params, "codebooks": {"lo": book, "hi": book}}
    params, codebooks = map(published.read(path, like).get, ("params", "codebooks"))
    made = jax.jit(partial(forward, module))(params, codebooks, x)
    close = partial(np.testing.assert_allclose, atol=1e-4, rtol=0)
    close(made.q_lo, golden[f"{name}_lo"])
    close(made.q_hi[:, ::2, ::2], golden[f"{name}_hi"])
    close(made.reconstruction[:, 1::2, ::2], golden[f"{name}_reconstruction"])
    assert golden[f"{name}_reconstruction"].std() > 0.5
    commitments = [
        0.25 * jnp.mean((z - q) ** 2)
        for z, q in ((made.z_lo, made.q_lo), (made.z_hi, made.q_hi))
    ]
    np.testing.assert_allclose(commitments, golden[f"{name}_losses"], rtol=1e-4)
    images = made.reconstruction[:, 1::2, ::2], golden[f"{name}_reconstruction"]
    parity(*SOURCES[name], "auto-encoder, forward", *images)
    losses = commitments, golden[f"{name}_losses"]
    parity(*SOURCES[name], "auto-encoder, losses", *losses)
    for level, index in (("lo", made.index_lo), ("hi", made.index_hi)):
        np.testing.assert_array_equal(
            public[books[level]][index], getattr(made, f"q_{level}")
        )


@pytest.mark.parametrize("name", DECODERS)
def test_object_decoder_is_the_public_one(name, golden, parity):
    module, seed = DECODERS[name]
    x = np.random.default_rng(seed + 100).standard_normal((2, 8, 8, 24))
    x = jnp.asarray(x, jnp.float32)
    y = jax.jit(module.apply)({"params": as_ours(*public_weights(module, seed, x))}, x)
    assert golden[name].std() > 0.3
    np.testing.assert_allclose(y[:, 1::2, ::2], golden[name], atol=1e-4, rtol=0)
    parity(*SOURCES[name], "object decoder, forward", y[:, 1::2, ::2], golden[name])


# Networks alone: the public counts less two codebooks and their two totals.
@pytest.mark.parametrize(
    ("module", "channels", "count"),
    [
        (DiscreteAutoEncoder(), 4, 6_130_500 - 4 * 2048 * 256),
        (DiscreteAutoEncoder((1,)), 1, 9_771_265 - 4 * 2048 * 256),
        (
            DiscreteAutoEncoder((3,), 128, 64, 2, 128, relu_skip=True),
            3,
            4_021_379 - 4 * 4096 * 128,
        ),
        (ObjectDecoder(), 512, 36_992_068),
        (ObjectDecoder(out_channels=1), 512, 36_985_921),
        (ObjectDecoder(3, 256, 128, 64), 256, 9_418_371),
    ],
)
def test_parameters_are_as_many_as_published(module, channels, count):
    x = jax.ShapeDtypeStruct((1, 16, 16, channels), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_sizes_of_the_levels():
    module, size = DiscreteAutoEncoder(), 384
    x = jax.ShapeDtypeStruct((1, size, size, 4), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    codes = jax.ShapeDtypeStruct((2048, 256), jnp.float32)
    book = Codebook(codes, jax.ShapeDtypeStruct((2048,), jnp.float32), codes)
    made = jax.eval_shape(partial(forward, module), params, {"lo": book, "hi": book}, x)
    assert made.q_lo.shape == (1, 48, 48, 256)
    assert made.q_hi.shape == (1, 96, 96, 256)
    assert made.reconstruction.shape == (1, 384, 384, 4)


def test_groups_meet_in_the_codes_alone():
    module, seed = MODELS["dada"]
    x = jnp.asarray(np.random.default_rng(3).random((1, 32, 32, 4)), jnp.float32)
    params = as_ours(*public_weights(module, seed, x, 2))
    other = x.at[..., 1:].set(1.0 - x[..., 1:])  # colour alone

    @jax.jit
    def passes(x):
        def call(method, *inputs):
            return module.apply({"params": params}, *inputs, method=method)

        hi = call("encode_hi", x)
        lo = call("encode_lo", hi)
        enlarged = call("enlarge", lo)
        z_hi = call("merge", hi, enlarged)
        return hi, lo, enlarged, z_hi, call("decode", enlarged, z_hi)

    for one, two in zip(passes(x), passes(other), strict=True):
        depth = 1 if one.shape[-1] == 4 else one.shape[-1] // 2
        np.testing.assert_array_equal(one[..., :depth], two[..., :depth])
        assert jnp.abs(one[..., depth:] - two[..., depth:]).max() > 1e-2


def test_sizes_that_do_not_divide_are_refused():
    module, _ = MODELS["dada"]
    with pytest.raises(ValueError, match="divisible by 8"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 36, 4)))


@pytest.mark.parametrize(("size", "groups"), [((3, 5), 1), ((4, 2), 3)])
def test_enlarge_is_the_gradient_of_a_strided_convolution(size, groups):
    """By its definition: the transpose of the convolution with the turned kernel."""
    module = GroupedEnlarge(2 * groups, groups)
    x = jax.random.normal(jax.random.key(1), (2, *size, 4 * groups))
    variables = module.init(jax.random.key(2), x)
    kernel = variables["params"]["kernel"]
    large = jnp.zeros((2, 2 * size[0], 2 * size[1], 2))

    def shrink(y, kernel):
        return jax.lax.conv_general_dilated(
            y,
            kernel[::-1, ::-1].transpose(0, 1, 3, 2),
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    expected = [
        jax.vjp(lambda y, k=k: shrink(y, k), large)[1](part)[0]
        for part, k in zip(
            jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True
        )
    ]
    np.testing.assert_allclose(
        module.apply(variables, x), jnp.concatenate(expected, -1), atol=1e-5
    )
