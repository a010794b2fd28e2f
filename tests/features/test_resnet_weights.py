"""Backbones: whole files in any of their forms, and torchvision's feature maps."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.public_resnets import drawn_weights, folded, image, public_shapes
from oracles.torch_models import import_networks, randomised

from ad3d_jax.features import inputs, resnet, weights
from ad3d_jax.nn.resnet import LAYERS

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "resnet_maps.npz"
TORCH_NAMES = {
    "wide_resnet50": "wide_resnet50_2",
    "wide_resnet101": "wide_resnet101_2",
}
STEM = ("conv1",)


def shapes(name, last_layer="layer3"):
    build = partial(resnet.init_resnet, name=name, last_layer=last_layer)
    return jax.eval_shape(build, jax.random.key(0))


def maps_of(params, name, rgb, layers):
    return jax.jit(resnet.resnet_maps, static_argnums=(1, 3))(params, name, rgb, layers)


def in_memory(arrays):
    """A file of weights that was read, without a file."""
    return weights.WeightFile(Path("w.npz"), arrays, "0" * 64, {})


@pytest.fixture
def stem_file(tmp_path):
    """Writes a file of the stem alone, changed in some names; returns its path."""

    def write(changes):
        path = tmp_path / "stem.npz"
        arrays = drawn_weights("resnet18", 1, stages=0) | changes
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
        return path

    return write


@pytest.mark.parametrize(
    ("name", "whole", "entries", "through_layer3"),
    [
        ("resnet18", 11_689_512, 122, 2_782_784),
        ("resnet34", 21_797_672, 218, None),
        ("resnet50", 25_557_032, 320, None),
        ("wide_resnet50", 68_883_240, 320, 24_862_528),
        ("wide_resnet101", 126_886_696, 626, None),
    ],
)
def test_files_of_public_size_are_what_is_loaded(name, whole, entries, through_layer3):
    """The sheet's counts hold for the names and shapes that the loader asks for."""

    def parameters(named):
        kept = {k: v for k, v in named.items() if not k.endswith(BUFFERS)}
        return sum(int(np.prod(shape)) for shape in kept.values())

    public = public_shapes(name)
    assert parameters(public) == whole and len(public) == entries
    trunk = public_shapes(name, stages=3)
    assert through_layer3 in (None, parameters(trunk))
    found = {place: np.broadcast_to(np.float32(1), s) for place, s in public.items()}
    params = resnet.read_resnet(in_memory(found), name, shapes(name))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes(name))


BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize(("name", "seed"), [("resnet18", 21), ("resnet50", 22)])
def test_maps_are_torchvisions(name, seed, tmp_path, parity):
    np.savez(tmp_path / "weights.npz", **drawn_weights(name, seed))
    params = resnet.read_resnet(tmp_path / "weights.npz", name, shapes(name))
    maps = maps_of(params, name, image(seed + 100), LAYERS[:4])
    with np.load(GOLDEN) as golden:
        for layer, found in zip(LAYERS, maps, strict=False):
            step = 8 if layer == "conv1" else 2
            expected = golden[f"{name}_{layer}"]
            scale = np.abs(expected).max()
            assert scale > 0.5
            np.testing.assert_allclose(
                found[:, ::step, ::step, ::8], expected, atol=1e-5 * scale, rtol=0
            )
            taken = found[:, ::step, ::step, ::8]
            parity("ResNet", "torchvision 0.28.0", "maps", taken, expected)


def test_every_form_of_a_file_is_the_same_network(tmp_path):
    """Norms apart or folded; dots or slashes; safetensors or npz; our own."""
    public = drawn_weights("resnet18", 3, stages=1)
    like = shapes("resnet18", "layer1")
    apart, slashes, own = (tmp_path / f"{n}.safetensors" for n in "abc")
    weights.save(apart, public)
    weights.save(slashes, {k.replace(".", "/"): v for k, v in public.items()})
    np.savez(tmp_path / "folded.npz", **folded(public))
    expected = resnet.read_resnet(apart, "resnet18", like)
    weights.save(own, expected)
    for path in (slashes, own, tmp_path / "folded.npz"):
        found = resnet.read_resnet(path, "resnet18", like)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("dtype", "error"), [(np.float16, 2**-11), (jnp.bfloat16, 2**-8)]
)
def test_half_precision_is_read_as_float32(tmp_path, dtype, error):
    """To the last bit of the shorter type, with or without norms to fold."""
    public = folded(drawn_weights("resnet18", 3, stages=1))
    like = shapes("resnet18", "layer1")
    weights.save(tmp_path / "full.safetensors", public)
    weights.save(
        tmp_path / "half.safetensors", {k: v.astype(dtype) for k, v in public.items()}
    )
    expected = resnet.read_resnet(tmp_path / "full.safetensors", "resnet18", like)
    found = resnet.read_resnet(tmp_path / "half.safetensors", "resnet18", like)
    for short, full in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert short.dtype == np.float32
        np.testing.assert_array_equal(short, full.astype(dtype).astype(np.float32))
        np.testing.assert_allclose(short, full, rtol=error, atol=1e-7)
        assert (short != full).any() or not full.any()


@pytest.mark.parametrize("prefix", ["module.", "model/", "module.backbone."])
def test_a_common_prefix_is_left_out_and_told(tmp_path, caplog, prefix):
    public = drawn_weights("resnet18", 3, stages=1)
    like = shapes("resnet18", "layer1")
    weights.save(tmp_path / "a.safetensors", public)
    weights.save(tmp_path / "b.safetensors", {prefix + k: v for k, v in public.items()})
    expected = resnet.read_resnet(tmp_path / "a.safetensors", "resnet18", like)
    assert "left out" not in caplog.text
    found = resnet.read_resnet(tmp_path / "b.safetensors", "resnet18", like)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    told = f"b.safetensors: all names begin with {prefix}, which is left out"
    assert caplog.text.count(told) == 1
    one = {prefix + k: v for k, v in public.items() if k != "bn1.bias"}
    weights.save(tmp_path / "c.safetensors", one | {"bn1.bias": public["bn1.bias"]})
    with pytest.raises(ValueError, match="missing: conv1/weight"):
        resnet.read_resnet(tmp_path / "c.safetensors", "resnet18", like)


def test_layout_goes_there_and_back_bit_by_bit(tmp_path):
    public = folded(drawn_weights("resnet18", 4, stages=1))
    np.savez(tmp_path / "a.npz", **public)
    params = resnet.read_resnet(
        tmp_path / "a.npz", "resnet18", shapes("resnet18", "layer1")
    )
    kernel = params["layer1_1"]["conv2"]["kernel"]
    assert kernel.shape == (3, 3, 64, 64)
    back = kernel.transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(back, public["layer1.1.conv2.weight"])


def test_every_difference_is_listed(stem_file):
    path = stem_file(
        {
            "bn1.running_var": None,
            "head.weight": np.ones(2),
            "conv1.weight": np.ones((64, 3, 3, 3), np.float32),
            "bn1.bias": np.ones(64, np.int32),
        }
    )
    with pytest.raises(ValueError) as caught:
        resnet.read_resnet(path, "resnet18", shapes("resnet18", "conv1"))
    text = str(caught.value)
    assert text.startswith(f"{path}: 4 of its weights do not fit, nothing was loaded")
    assert "missing: bn1/running_var" in text
    assert "unexpected: head/weight" in text
    assert (
        "conv1/weight, expected float32 [64, 3, 7, 7], found float32 [64, 3, 3, 3]"
        in text
    )
    assert "bn1/bias, expected float32 [64], found int32 [64]" in text
    assert "these are weights of" not in text


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("resnet50", "wide_resnet50"),
        ("wide_resnet50", "resnet50"),
        ("resnet18", "resnet50"),
        ("wide_resnet50", "resnet18"),
    ],
)
@pytest.mark.parametrize("form", ["norms", "own"])
def test_another_network_is_named(held, asked, form):
    found = {
        "norms": public_shapes(held),
        "own": {
            f"{block}/{conv}/{part}" if conv else f"{block}/{part}": leaf.shape
            for block, inner in shapes(held).items()
            for conv, leaves in (inner.items() if block != "conv1" else [("", inner)])
            for part, leaf in leaves.items()
        },
    }[form]
    arrays = {place: np.broadcast_to(np.float32(1), s) for place, s in found.items()}
    with pytest.raises(ValueError, match=f"mismatched.*\n.*of {held}, not of {asked}"):
        resnet.read_resnet(in_memory(arrays), asked, shapes(asked))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("conv1.weight", np.nan),
        ("bn1.running_mean", np.inf),
        ("bn1.running_var", np.inf),  # would fold to a silent zero
        ("bn1.running_var", -1.0),
    ],
)
def test_values_that_are_not_finite_are_refused(stem_file, place, value):
    array = drawn_weights("resnet18", 1, stages=0)[place]
    array.reshape(-1)[3] = value
    with pytest.raises(
        ValueError, match="not finite, nothing was loaded: .*(conv|bn)1"
    ):
        resnet.read_resnet(
            stem_file({place: array}), "resnet18", shapes("resnet18", "conv1")
        )


def test_unneeded_names_are_passed_over_and_others_not(stem_file):
    like = shapes("resnet18", "conv1")
    deeper = {
        "layer1.0.conv1.weight": np.full(3, np.nan),
        "layer4.1.bn2.weight": np.ones(3),
        "fc.weight": np.ones(3),
        "fc.bias": np.ones(3),
    }
    resnet.read_resnet(stem_file(deeper), "resnet18", like)
    with pytest.raises(ValueError, match="unexpected: fc2/weight"):
        resnet.read_resnet(stem_file({"fc2.weight": np.ones(3)}), "resnet18", like)
    with pytest.raises(ValueError, match="unexpected: layer5/0/conv1/weight"):
        resnet.read_resnet(
            stem_file({"layer5.0.conv1.weight": np.ones(3)}), "resnet18", like
        )
    with pytest.raises(ValueError, match="differ in '.' and '/' alone"):
        resnet.read_resnet(stem_file({"bn1/bias": np.ones(64)}), "resnet18", like)


def test_torch_files_are_refused_with_the_converter(tmp_path):
    path = tmp_path / "wide_resnet50_2-95faca4d.pth"
    path.write_bytes(b"PK")
    with pytest.raises(
        ValueError, match="python -m experiments.convert_torch wide_resnet50"
    ):
        resnet.read_resnet(path, "resnet18", shapes("resnet18", "conv1"))


def test_image_is_normalised_with_imagenets_statistics():
    params = resnet.init_resnet(jax.random.key(0), "resnet18", "conv1")
    params["conv1"]["bias"] = jnp.linspace(-1.0, 1.0, 64)
    mean = jnp.full((1, 32, 32, 3), jnp.array([0.485, 0.456, 0.406]))
    (flat,) = resnet.resnet_maps(params, "resnet18", mean, STEM)
    expected = jnp.broadcast_to(jnp.maximum(params["conv1"]["bias"], 0), flat.shape)
    np.testing.assert_allclose(flat, expected, atol=1e-6)
    # A step of one standard deviation in a channel is a step of one in its input.
    kernel = params["conv1"]["kernel"].at[:, :, 1:].set(0.0)
    params["conv1"] = {"kernel": kernel, "bias": jnp.zeros(64)}
    (red,) = resnet.resnet_maps(params, "resnet18", mean.at[..., 0].add(0.229), STEM)
    np.testing.assert_allclose(
        red[0, 8, 8], jnp.maximum(kernel.sum((0, 1, 2)), 0), atol=1e-5
    )


def test_wrong_requests_are_told():
    key, rgb = jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    with pytest.raises(ValueError, match="layers: expected some of.*layer5"):
        resnet.init_resnet(key, "resnet18", "layer5")
    params = resnet.init_resnet(key, "resnet18", "conv1")
    with pytest.raises(ValueError, match="layer3 is deeper than the weights.*conv1"):
        resnet.resnet_maps(params, "resnet18", rgb, ("conv1", "layer3"))
    with pytest.raises(ValueError, match="layers: expected some of"):
        resnet.resnet_maps(params, "resnet18", rgb, ())


def test_pretrained_weights_load(resnet18_file):
    params = resnet.read_resnet(resnet18_file, "resnet18", shapes("resnet18"))
    second, third = maps_of(params, "resnet18", image(5, 224), ("layer2", "layer3"))
    assert second.shape == (1, 28, 28, 128) and third.shape == (1, 14, 14, 256)
    assert np.isfinite(second).all() and np.isfinite(third).all()
    assert not any((np.asarray(m) == 0).all() for m in (second, third))
    with pytest.raises(ValueError, match="weights of resnet18, not of resnet50"):
        resnet.read_resnet(resnet18_file, "resnet50", shapes("resnet50"))


# --- Against torch --------------------------------------------------------------------


def close(found, expected):
    """Within 1e-4 of the map's largest value, everywhere."""
    expected = expected.detach().permute(0, 2, 3, 1).numpy()
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


def loaded(network, name, path):
    state = {place: x.numpy().copy() for place, x in network.state_dict().items()}
    weights.save(path, state)
    return resnet.read_resnet(path, name, shapes(name, "layer4"))


def normalised(torch, rgb):
    return torch.tensor(inputs.normalised(rgb, inputs.IMAGENET).transpose(0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        *[("resnet18", 224), ("resnet34", 96), ("resnet50", 96), ("resnet50", 101)],
        *[("wide_resnet50", 96), ("wide_resnet101", 64)],
    ],
)
def test_converted_weights_give_torchvisions_maps(name, side, tmp_path):
    torch, torchvision, _ = import_networks()
    make = getattr(torchvision.models, TORCH_NAMES.get(name, name))
    network = randomised(torch, make(weights=None), 6)
    rgb = image(7, side)
    maps = maps_of(loaded(network, name, tmp_path / "w.safetensors"), name, rgb, LAYERS)
    with torch.no_grad():
        x = network.relu(network.bn1(network.conv1(normalised(torch, rgb))))
        close(maps[0], x)
        x = network.maxpool(x)
        for layer, found in zip(LAYERS[1:], maps[1:], strict=True):
            x = getattr(network, layer)(x)
            close(found, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50"])
def test_converted_weights_give_timms_maps(name, tmp_path):
    torch, _, timm = import_networks()
    network = timm.create_model(
        TORCH_NAMES.get(name, name), pretrained=False, features_only=True
    )
    network = randomised(torch, network, 8)
    rgb = image(9, 96)
    maps = maps_of(loaded(network, name, tmp_path / "w.safetensors"), name, rgb, LAYERS)
    with torch.no_grad():
        for found, expected in zip(maps, network(normalised(torch, rgb)), strict=True):
            close(found, expected)


@pytest.mark.slow
def test_pretrained_folded_weights_give_torchvisions_maps(resnet18_file):
    torch, torchvision, _ = import_networks()
    network = torchvision.models.resnet18(weights=None).eval()
    state = network.state_dict()
    for place, array in weights.read(resnet18_file).arrays.items():
        if place.endswith(".bias"):  # the norm's shift; its scale is one
            place = place.replace("conv", "bn").replace("ple.0", "ple.1")
            state[place.replace("bias", "running_var")].fill_(1 - 1e-5)
        state[place].copy_(torch.tensor(array))
    rgb = image(10, 224)
    params = resnet.read_resnet(resnet18_file, "resnet18", shapes("resnet18"))
    maps = maps_of(params, "resnet18", rgb, ("layer1", "layer2", "layer3"))
    with torch.no_grad():
        x = network.bn1(network.conv1(normalised(torch, rgb)))
        x = network.maxpool(network.relu(x))
        for layer, found in zip(LAYERS[1:], maps, strict=False):
            x = getattr(network, layer)(x)
            close(found, x)
