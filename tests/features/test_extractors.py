"""The table of extractors, and the row of `System.pretrained` that it gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.public_resnets import drawn_weights

from ad3d_jax.base import State
from ad3d_jax.features import weights
from ad3d_jax.features.extractors import (
    BACKBONES,
    EXTRACTORS,
    deepest,
    extractor,
    feature_maps,
    init_backbone,
    pretrained_backbone,
)


@pytest.mark.parametrize("name", BACKBONES)
def test_each_row_taps_all_its_layers(name):
    row = EXTRACTORS[name]
    rgb = jnp.zeros((1, 224, 224, 3))

    def maps(key):
        return row.apply(row.init(key, row.layers[-1]), rgb, row.layers)

    shapes = [x.shape for x in jax.eval_shape(maps, jax.random.key(0))]
    if name.startswith("vit"):
        side = 16 if "14" in name else 28
        width = 384 if "small" in name else 768
        assert shapes == 24 * [(1, side, side, width)]
    else:
        assert [s[1:3] for s in shapes] == [(n, n) for n in (112, 56, 28, 14, 7)]


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_small_patch8_224", "vit_base_patch8_224_augreg"]
)
def test_the_rows_constants_normalise_its_input(name):
    """An image of its mean colour is an image of zeros to the first layer."""
    row = EXTRACTORS[name]
    first = row.layers[0]
    params = row.init(jax.random.key(0), first)
    grey = jnp.broadcast_to(jnp.float32(row.inputs.mean), (1, 56, 56, 3))
    stem = "conv1" if first == "conv1" else "patches"
    blind = params | {stem: jax.tree.map(jnp.zeros_like, params[stem])}
    run = jax.jit(lambda params, rgb: row.apply(params, rgb, (first,))[0])
    np.testing.assert_allclose(run(params, grey), run(blind, grey), atol=1e-5)
    assert np.abs(run(params, grey + 0.1) - run(blind, grey)).max() > 0.01


def test_the_deepest_layer_is_found_by_depth_not_by_name():
    assert deepest("vit_base_patch8_224", ("block10", "block9")) == "block10"
    assert deepest("vit_base_patch8_224", ("norm2", "block2")) == "norm2"
    assert deepest("resnet18", ("layer3", "conv1", "layer2")) == "layer3"
    with pytest.raises(ValueError, match="expected some of .*'norm12'.*found .'layer2"):
        deepest("vit_base_patch8_224", ("layer2", "layer3"))
    with pytest.raises(ValueError, match="layers: expected some of.*found ()"):
        deepest("resnet18", ())


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match="backbone: expected one of.*found 'resnet35'"):
        init_backbone(jax.random.key(0), "resnet35")
    with pytest.raises(ValueError, match="backbone: expected one of.*found ''"):
        feature_maps({}, "", jnp.zeros((1, 32, 32, 3)), ("layer1",))
    with pytest.raises(ValueError, match="backbone: expected one of"):
        pretrained_backbone("vgg")
    with pytest.raises(ValueError, match="layers: expected some of.*layer5"):
        init_backbone(jax.random.key(0), "resnet18", "layer5")
    assert extractor("resnet18") is EXTRACTORS["resnet18"]


def test_row_brings_a_files_weights_into_the_state(tmp_path):
    np.savez(tmp_path / "w.npz", **drawn_weights("resnet18", 5, stages=1))
    row = pretrained_backbone("resnet18", ("tv_in1k",))
    assert (row.name, row.sources) == ("backbone", ("tv_in1k",))
    random = init_backbone(jax.random.key(0), "resnet18", "layer1")
    state = State(frozen={"backbone": random, "textures": jnp.ones(2)})
    file = weights.read(tmp_path / "w.npz")
    after = row.put(state, row.read(file, row.get(state)))
    assert state.frozen["backbone"] is random
    assert after.frozen["textures"] is state.frozen["textures"]
    expected = extractor("resnet18").read(tmp_path / "w.npz", random)
    jax.tree.map(np.testing.assert_array_equal, row.get(after), expected)
    (found,) = feature_maps(
        row.get(after), "resnet18", jnp.full((1, 32, 32, 3), 0.4), ("layer1",)
    )
    (other,) = feature_maps(
        random, "resnet18", jnp.full((1, 32, 32, 3), 0.4), ("layer1",)
    )
    assert found.shape == other.shape and not np.allclose(found, other)
