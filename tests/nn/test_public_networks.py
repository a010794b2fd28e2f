"""Our networks with the weights of the public PyTorch ones, against their outputs.

How the stored outputs were made stands in tests/golden/README.md.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ad3d_jax.base import Batch, State
from ad3d_jax.nn.auto_encoder import AutoEncoder
from ad3d_jax.nn.scope import init_networks, scoring
from ad3d_jax.nn.swin_unet import SwinUnet
from ad3d_jax.nn.unet import UNet
from ad3d_jax.systems import draem, easynet, easynet_networks

DRAEM = "VitjanZ/DRAEM 2dbf673"
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
SWIN_PARTS = {
    "patch": "patch_embed.proj",
    "patch_norm": "patch_embed.norm",
    "middle_norm": "norm",
    "final_norm": "norm_up",
    "head0": "output",
    "expand_final": "up",
    "expand2": "layers_up.0",
    "expand1": "layers_up.1.upsample",
    "expand0": "layers_up.2.upsample",
}
BLOCK_PARTS = {
    "attention/qkv": "attn.qkv",
    "attention/out": "attn.proj",
    "norm_1": "norm1",
    "norm_2": "norm2",
    "mlp_1": "mlp.fc1",
    "mlp_2": "mlp.fc2",
}


def swin_name(path):
    """Returns the public name of one of our parameters."""
    first, *middle, leaf = path
    if "_block" in first:
        stage, block = first.split("_block")
        way, stage = stage[:-1], int(stage[-1])
        layer = f"layers.{stage}" if way == "down" else f"layers_up.{3 - stage}"
        layer = f"{layer}.blocks.{block}"
        if middle == ["attention"]:
            return f"{layer}.attn.relative_position_bias_table"
        return f"{layer}.{BLOCK_PARTS['/'.join(middle)]}.{LEAVES[leaf]}"
    if first.startswith("merge"):
        part = {"linear": "reduction", "norm": "norm"}[middle[0]]
        return f"layers.{first[-1]}.downsample.{part}.{LEAVES[leaf]}"
    if first.startswith("join"):
        return f"concat_back_dim.{3 - int(first[-1])}.{LEAVES[leaf]}"
    part = {"linear": ".expand", "norm": ".norm"}[middle[0]] if middle else ""
    return f"{SWIN_PARTS[first]}{part}.{LEAVES[leaf]}"


def unet_name(path):
    """Returns the public name of one of our parameters or statistics."""
    if path[0] == "head":
        return f"decoder_segment.fin_out.0.{LEAVES[path[1]]}"
    (block, number), kind, leaf = path[0].split("_"), path[1], LEAVES[path[2]]
    level, norm = int(block[-1]), int(kind == "norm")
    if block.startswith("down"):
        return f"encoder_segment.block{level + 1}.{3 * (int(number) - 1) + norm}.{leaf}"
    place = "b" if level == 4 else str(4 - level)
    if block.startswith("enlarge"):
        name = "up_b" if place == "b" else f"up{place}"
        return f"decoder_segment.{name}.{1 + norm}.{leaf}"
    name = "db_b" if place == "b" else f"db{place}"
    return f"decoder_segment.{name}.{3 * (int(number) - 1) + norm}.{leaf}"


def auto_encoder_name(path):
    """Returns the public name of one of our parameters or statistics."""
    if path[0] == "head":
        return f"decoder.fin_out.0.{LEAVES[path[1]]}"
    (block, number), kind, leaf = path[0].split("_"), path[1], LEAVES[path[2]]
    level, norm = int(block[-1]), int(kind == "norm")
    place = 3 * (int(number) - 1) + norm
    if block.startswith("down"):
        return f"encoder.block{level + 1}.{place}.{leaf}"
    if block.startswith("enlarge"):
        return f"decoder.up{4 - level}.{1 + norm}.{leaf}"
    return f"decoder.db{4 - level}.{place}.{leaf}"


def easynet_name(path):
    """Returns the public name of one of our parameters or statistics."""
    group, *rest = path
    part, which = group.split("_")
    suffix = "_d" if which == "depth" else ""
    if rest[0] == "restore":
        way, _, place = auto_encoder_name(rest[1:]).partition(".")
        return f"{way}{suffix}.{place}"
    if part == "head":
        kind, leaf = rest
        place = 3 * int(kind[-1]) + kind.startswith("norm")
        return f"mlp{4 if which == 'fusion' else 3}.{place}.{LEAVES[leaf]}"
    level, kind, leaf = rest
    return f"mlp{level[-1]}{suffix}.{int(kind == 'norm0')}.{LEAVES[leaf]}"


def public_shape(name, shape):
    """Returns the shape in PyTorch's order: outputs first."""
    if name == "output.weight":
        return (*shape[::-1], 1, 1)
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    return shape if "table" in name else shape[::-1]


def ours(name, value):
    """Returns the value in our order of axes: outputs last."""
    if name == "output.weight":
        return value[:, :, 0, 0].T
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value if "table" in name else value.T


def drawn(generator, name, shape):
    """Returns the next weight, scaled by its kind so that signals keep their size."""
    value = generator.standard_normal(shape)
    if name.endswith("running_var"):
        return 1.0 + 0.1 * np.abs(value)
    if name.endswith("running_mean"):
        return 0.1 * value
    if len(shape) == 1:
        return 0.1 * value + (1.0 if name.endswith("weight") else 0.0)
    if "table" in name:
        return 0.5 * value
    gain = 2.0 if len(shape) == 4 else 1.0
    return value * np.sqrt(gain / np.prod(shape[1:]))


def public_variables(network, name_of, seed, *inputs):
    """Returns our variables, filled with the weights the public network had."""
    shapes = jax.eval_shape(lambda key: network.init(key, *inputs), jax.random.key(0))
    places = {
        name_of(path[1:]): path for path in traverse_util.flatten_dict(dict(shapes))
    }
    leaves = traverse_util.flatten_dict(dict(shapes))
    assert len(places) == len(leaves)
    generator = np.random.default_rng(seed)
    filled = {}
    for name in sorted(places):
        shape = public_shape(name, leaves[places[name]].shape)
        value = drawn(generator, name, shape).astype(np.float32)
        filled[places[name]] = jnp.asarray(ours(name, value))
    return traverse_util.unflatten_dict(filled)


def image(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("array", "depths", "outputs", "seed"),
    [("classes9", (2, 2, 2, 2), 9, 11), ("channels3", (2, 2, 4, 2), 3, 12)],
)
def test_swin_unet_is_the_public_one(array, depths, outputs, seed, parity):
    network = SwinUnet(outputs, depths=depths, window=7, scales=1)
    x = image(seed + 100, (1, 224, 224, 3))
    variables = public_variables(network, swin_name, seed, x)
    (y,) = jax.jit(lambda v, x: network.apply(v, x))(variables, x)
    with np.load(GOLDEN / "swin_unet_224.npz") as golden:
        expected = golden[array]
    assert expected.std() > 0.5
    np.testing.assert_allclose(y[:, 3::8, 3::8], expected, atol=1e-4, rtol=0)
    source = "HuCaoFighting/Swin-Unet f48f623"
    parity("DBRN", source, "Swin-Unet, forward", y[:, 3::8, 3::8], expected)


@pytest.mark.slow
def test_unet_is_draems(parity):
    network = UNet()
    x = image(113, (1, 128, 128, 6))
    variables = public_variables(network, unet_name, 13, x)
    y = jax.jit(lambda v, x: network.apply(v, x))(variables, x)
    with np.load(GOLDEN / "draem_unet_128.npz") as golden:
        expected = golden["logits"]
    assert expected.std() > 0.1
    np.testing.assert_allclose(y[:, 1::4, 1::4], expected, atol=1e-4, rtol=0)
    parity("DRAEM", DRAEM, "discriminator, forward", y[:, 1::4, 1::4], expected)


@pytest.mark.slow
def test_auto_encoder_is_draems(parity):
    network = AutoEncoder()
    x = image(114, (1, 64, 64, 3))
    variables = public_variables(network, auto_encoder_name, 14, x)
    y, _ = jax.jit(lambda v, x: network.apply(v, x))(variables, x)
    with np.load(GOLDEN / "draem_auto_encoder_64.npz") as golden:
        expected = golden["output"]
    assert expected.std() > 0.5
    np.testing.assert_allclose(y[:, 1::2, 1::2], expected, atol=1e-4, rtol=0)
    parity("DRAEM", DRAEM, "auto-encoder, forward", y[:, 1::2, 1::2], expected)


class WholeEasyNet:
    """EasyNet's networks with variables as of one module."""

    config = easynet.Config(width=8)
    networks = easynet_networks.build_networks(config)

    def init(self, key):
        shapes = easynet_networks.input_shapes(self.config, (32, 32))
        keys = jax.random.split(key, len(self.networks))
        made = init_networks(self.networks, shapes, keys)
        return dict(zip(("params", "batch_stats"), made, strict=True))


@pytest.mark.slow
def test_easynet_is_the_public_one(parity):
    variables = public_variables(WholeEasyNet(), easynet_name, 31)
    state = State(
        params=variables["params"], extra={"batch_stats": variables["batch_stats"]}
    )
    scope = scoring(state)
    inputs = {
        "rgb": image(131, (1, 32, 32, 3)),
        "depth": image(132, (1, 32, 32, 1)),
    }
    forward = functools.partial(
        easynet_networks.forward, WholeEasyNet.config, WholeEasyNet.networks, scope
    )
    out = jax.jit(lambda x: forward(x, ("rgb", "fusion")))(inputs)
    found = {
        "reconstruction_rgb": out.reconstructions["rgb"][:, 1::2, 1::2],
        "reconstruction_depth": out.reconstructions["depth"][:, 1::2, 1::2],
        "map_rgb": out.maps["rgb"][:, 1::2, 1::2, 1:],
        "map_fusion": out.maps["fusion"][:, 1::2, 1::2, 1:],
        "pooled_rgb": out.pooled["rgb"],
        "pooled_fusion": jnp.concatenate(
            [out.pooled[name] for name in ("rgb", "depth")], 1
        ),
    }
    with np.load(GOLDEN / "easynet_32.npz") as golden:
        assert set(golden) == {*found, "entropies"}
        for name, value in found.items():
            assert golden[name].std() > 0.02
            np.testing.assert_allclose(value, golden[name], atol=1e-4, rtol=0)
            source = "TaoTao9/EasyNet be5981d"
            parity("EasyNet", source, "networks, forward", value, golden[name])


@pytest.mark.slow
def test_scores_are_draems(parity):
    """Both networks, eight channels wide, joined as the published test script does."""
    config = draem.Config(reconstruction_width=8, discriminator_width=8)
    networks = draem.build_networks(config)
    x = image(115, (1, 64, 64, 3))
    parts = {
        "rgb": public_variables(networks["rgb"], auto_encoder_name, 15, x),
        "discriminator": public_variables(
            networks["discriminator"], unet_name, 16, jnp.zeros((1, 64, 64, 6))
        ),
    }
    state = State(
        params={name: part["params"] for name, part in parts.items()},
        extra={"batch_stats": {n: part["batch_stats"] for n, part in parts.items()}},
    )
    score = jax.jit(draem.draem(config).score)
    found = score(jax.random.key(0), state, Batch(rgb=x))
    with np.load(GOLDEN / "draem_scores_64.npz") as golden:
        np.testing.assert_allclose(
            found.map[:, 1::2, 1::2, 0], golden["map"], atol=1e-5, rtol=0
        )
        np.testing.assert_allclose(found.image, golden["image"], atol=1e-5, rtol=0)
        assert golden["map"].std() > 0.05
        parity("DRAEM", DRAEM, "map", found.map[:, 1::2, 1::2, 0], golden["map"])
        parity("DRAEM", DRAEM, "image score", found.image, golden["image"])
