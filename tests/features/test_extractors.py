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
    extractor,
    feature_maps,
    init_backbone,
    pretrained_backbone,
)


@pytest.mark.parametrize("name", BACKBONES)
def test_each_row_taps_all_its_layers(name):
    row = EXTRACTORS[name]
    rgb = jnp.zeros((1, 32, 32, 3))

    def maps(key):
        return row.apply(row.init(key, row.layers[-1]), rgb, row.layers)

    sides = [x.shape[1:3] for x in jax.eval_shape(maps, jax.random.key(0))]
    assert sides == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


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
