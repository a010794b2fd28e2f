"""Vision transformers: files in all forms, a written-out one, and timm's features."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import public_vits
from oracles.public_resnets import image
from oracles.public_vits import drawn_weights, public_shapes
from oracles.torch_models import import_networks

from ad3d_jax.features import vit, weights
from ad3d_jax.features.inputs import HALF, IMAGENET, normalised
from ad3d_jax.nn.vit import VITS, VisionTransformer
from experiments import convert_torch

TINY = {
    "tiny": VisionTransformer(4, 8, 2, grid=3, depth=2),
    "tiny_reg2": VisionTransformer(4, 8, 2, grid=3, depth=2, registers=2),
}
LAYERS = TINY["tiny"].layers


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    """Puts two networks of two blocks into the table."""
    for name, network in TINY.items():
        monkeypatch.setitem(VITS, name, network)


def shapes(name, last_layer="block2"):
    build = partial(vit.init_vit, name=name, last_layer=last_layer)
    return jax.eval_shape(build, jax.random.key(0))


tokens_of = jax.jit(vit.vit_tokens, static_argnums=(1, 3, 4))
maps_of = jax.jit(vit.vit_maps, static_argnums=(1, 3, 4))


def in_memory(arrays):
    """A file of weights that was read, without a file."""
    return weights.WeightFile(Path("w.npz"), arrays, "0" * 64, {})


def read(arrays, name, last_layer="block2"):
    return vit.read_vit(in_memory(arrays), name, shapes(name, last_layer))


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("name", "parameters", "entries"),
    [
        ("vit_small_patch8_224", 21_670_272, 150),
        ("vit_base_patch8_224", 85_807_872, 150),
        # The releases' counts have the token of masked patches, and a position of the
        # class token, which timm adds to the class token.
        ("vit_small_patch14_reg4_dinov2", 22_058_112 - 2 * 384, 176 - 1),
        ("vit_base_patch14_reg4_dinov2", 86_583_552 - 2 * 768, 176 - 1),
    ],
)
def test_files_of_public_size_are_what_is_loaded(name, parameters, entries):
    """The sheet's counts hold for the names and shapes that the loader asks for."""
    public = public_shapes(name)
    assert sum(int(np.prod(shape)) for shape in public.values()) == parameters
    assert len(public) == entries
    found = {place: np.broadcast_to(np.float32(1), s) for place, s in public.items()}
    like = shapes(name, "norm12")
    params = vit.read_vit(in_memory(found), name, like)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, like)


@pytest.mark.parametrize("name", TINY)
def test_tokens_are_those_of_the_written_out_network(name):
    public = drawn_weights(name, 1)
    rgb = image(2, 12)
    params = read(public, name)
    found = tokens_of(params, name, rgb, LAYERS)
    pixels = normalised(rgb, IMAGENET)[0].astype(np.float64)
    expected = public_vits.tokens(public, pixels, heads=2, depth=2)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == (1, *other.shape)
        np.testing.assert_allclose(one[0], other, rtol=2e-5, atol=2e-5)
    (map,) = maps_of(params, name, rgb, ("block1",))
    patches = found[0][0, TINY[name].prefix :]
    np.testing.assert_allclose(map.reshape(9, 8), patches, atol=1e-6)


def test_constants_of_the_input_are_those_asked_for():
    rgb, params = image(3, 12), read(drawn_weights("tiny", 4), "tiny")
    (half,) = maps_of(params, "tiny", rgb, ("block1",), HALF)
    moved = (2 * rgb - 1) * np.float32(IMAGENET.std) + np.float32(IMAGENET.mean)
    (same_pixels,) = maps_of(params, "tiny", moved, ("block1",))
    (others,) = maps_of(params, "tiny", rgb, ("block1",))
    np.testing.assert_allclose(half, same_pixels, atol=2e-5)
    assert np.abs(half - others).max() > 0.1


def test_every_form_of_a_file_is_the_same_network(tmp_path):
    """Dots or slashes; a prefix; safetensors or npz; a classifier; our own names."""
    public = drawn_weights("tiny_reg2", 5)
    expected = read(public, "tiny_reg2")
    weights.save(tmp_path / "own.safetensors", expected)
    weights.save(tmp_path / "public.safetensors", public)
    like = shapes("tiny_reg2")
    for name in ("own", "public"):
        found = vit.read_vit(tmp_path / f"{name}.safetensors", "tiny_reg2", like)
        same(found, expected)
    unneeded = {"head.weight": np.ones((3, 8)), "head.bias": np.ones(3)}
    same(read(public | unneeded, "tiny_reg2"), expected)
    renamed = {f"module/{k.replace('.', '/')}": x for k, x in public.items()}
    same(read(renamed, "tiny_reg2"), expected)


def test_the_releases_form_is_timms():
    """DINOv2's release has a position of the class token and a token for masks."""
    public = drawn_weights("tiny_reg2", 6)
    place = np.float32(np.random.default_rng(7).standard_normal((1, 1, 8)))
    release = {k: x for k, x in public.items() if k != "reg_token"} | {
        "register_tokens": public["reg_token"],
        "cls_token": public["cls_token"] - place,
        "pos_embed": np.concatenate([place, public["pos_embed"]], axis=1),
        "mask_token": np.ones((1, 8), np.float32),
    }
    found, expected = read(release, "tiny_reg2"), read(public, "tiny_reg2")
    np.testing.assert_allclose(
        found.pop("prefix"), expected.pop("prefix"), rtol=0, atol=1e-6
    )
    same(found, expected)


def test_only_the_blocks_asked_for_are_read():
    public = drawn_weights("tiny", 8)
    whole, first = read(public, "tiny"), read(public, "tiny", "norm1")
    assert set(whole) - set(first) == {"block2"}
    same(first, {k: x for k, x in whole.items() if k != "block2"})
    (one,) = maps_of(first, "tiny", image(2, 12), ("norm1",))
    (other,) = maps_of(whole, "tiny", image(2, 12), ("norm1",))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="norm2 is deeper than .* end at block1"):
        vit.vit_maps(first, "tiny", image(2, 12), ("block1", "norm2"))
    with pytest.raises(ValueError, match="unexpected: blocks/2/attn/proj/bias"):
        read(public | {"blocks.2.attn.proj.bias": np.ones(8)}, "tiny")


def test_every_difference_is_listed():
    public = drawn_weights("tiny_reg2", 9)
    del public["blocks.1.ls2.gamma"], public["reg_token"]
    public["norm.bias"] = np.ones(9, np.float32)
    public["extra"] = np.ones(2, np.float32)
    with pytest.raises(ValueError) as caught:
        read(public, "tiny_reg2")
    text = str(caught.value)
    assert "missing: blocks/1/ls2/gamma" in text and "unexpected: extra" in text
    assert "missing: register_tokens" in text
    assert "norm/bias, expected float32 [8], found float32 [9]" in text
    assert "these are weights of" not in text


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("vit_small_patch8_224", "vit_base_patch8_224"),
        ("vit_base_patch8_224", "vit_base_patch14_reg4_dinov2"),
        ("vit_base_patch14_reg4_dinov2", "vit_base_patch8_224"),
    ],
)
def test_another_network_is_named(held, asked):
    public = public_shapes(held)
    arrays = {place: np.broadcast_to(np.float32(1), s) for place, s in public.items()}
    with pytest.raises(ValueError, match=f"of {held}, not of {asked}"):
        read(arrays, asked, "block1")


@pytest.mark.parametrize("place", ["blocks.0.ls1.gamma", "pos_embed"])
def test_values_that_are_not_finite_are_refused(place):
    public = drawn_weights("tiny_reg2", 10)
    public[place].reshape(-1)[3] = np.nan
    found = place.replace(".", "/")
    with pytest.raises(ValueError, match=f"not finite, nothing was loaded: {found}"):
        read(public, "tiny_reg2")


def test_wrong_requests_are_told():
    key, rgb = jax.random.key(0), jnp.zeros((1, 12, 12, 3))
    with pytest.raises(ValueError, match="layers: expected some of.*layer2"):
        vit.init_vit(key, "tiny", "layer2")
    params = read(drawn_weights("tiny", 11), "tiny")
    with pytest.raises(ValueError, match="layers: expected some of"):
        vit.vit_maps(params, "tiny", rgb, ())
    with pytest.raises(ValueError, match="patches of 4: .*divisible by 4, found 12x10"):
        vit.vit_maps(params, "tiny", rgb[:, :, :10], ("block1",))


# --- Against timm ---------------------------------------------------------------------


def converted(torch, network, folder):
    """Draws all weights anew and takes them through a torch file and the converter."""
    torch.manual_seed(12)
    with torch.no_grad():
        for place, part in network.named_parameters():
            if "norm" in place or place.endswith("gamma"):
                part.uniform_(-0.2, 1.0).add_(0.3 if place.endswith("weight") else 0.0)
            elif place.endswith("weight"):
                part.normal_(0.0, part[0].numel() ** -0.5)
            else:
                part.normal_(0.0, 0.3)
    source, target = folder / "w.pth", folder / "w.safetensors"
    torch.save(network.state_dict(), source)
    convert_torch.main([str(source), str(target)])
    return target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_small_patch8_224", (224, 224)),
        ("vit_base_patch8_224", (64, 96)),  # positions shrink, the grid is no square
        ("vit_small_patch14_reg4_dinov2", (98, 98)),
        ("vit_base_patch14_reg4_dinov2", (28, 560)),  # shrink one way, grow the other
    ],
)
def test_converted_weights_give_timms_features(name, size, tmp_path, parity):
    torch, _, timm = import_networks()
    network = timm.create_model(
        name, pretrained=False, num_classes=0, dynamic_img_size=True
    ).eval()
    layers = ("block3", "block12", "norm12", "norm4")
    like = shapes(name, "block12")
    params = vit.read_vit(converted(torch, network, tmp_path), name, like)
    rgb = image(13, 560)[:, : size[0], : size[1]]
    run = jax.jit(partial(vit.vit_tokens, name=name, layers=layers))
    found = dict(zip(layers, run(params, rgb=rgb), strict=True))
    x = torch.tensor(normalised(rgb, IMAGENET).transpose(0, 3, 1, 2))
    kept = {}
    for number in (3, 4, 12):
        network.blocks[number - 1].register_forward_hook(
            lambda _, inputs, output, number=number: kept.update({number: output})
        )
    with torch.no_grad():
        expected = {
            "norm12": network.forward_features(x),
            "block3": kept[3],
            "block12": kept[12],
            "norm4": network.norm(kept[4]),
        }
    for layer in layers:
        scale = expected[layer].abs().max().item()
        assert found[layer].shape == expected[layer].shape and scale > 0.5
        np.testing.assert_allclose(
            found[layer], expected[layer].numpy(), rtol=0, atol=1e-4 * scale
        )
        tokens = found[layer], expected[layer].numpy()
        parity("ViT", timm, "tokens", *tokens)
