"""BTF against its sheet: feature sets, scores by hand, what a batch must hold."""

import functools
import sys

import jax
import jax.numpy as jnp
import libraries
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from ad3d_jax.base import Batch
from ad3d_jax.experiment import run
from ad3d_jax.features.cells import (
    FEATURE_SETS,
    cell_features,
    has_network,
    raw_cells,
)
from ad3d_jax.features.patches import cell_pool
from ad3d_jax.nn.resnet import RESNETS
from ad3d_jax.ops import knn
from ad3d_jax.systems import btf
from ad3d_jax.systems.btf import Config
from ad3d_jax.testing import make_batch
from experiments.configs.btf import VARIANTS, get_config

SMALL = {"backbone": "resnet18", "cells": 8}


@functools.cache
def cells_of(config):
    """Returns the compiled features of a configuration."""
    return jax.jit(functools.partial(cell_features, config))


def shape_of(side: int = 224, **fields):
    """Returns the shapes of the state and of the cells of one sample."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    cells = jax.ShapeDtypeStruct((1, 28, 28, 33), jnp.float32)
    batch = Batch(rgb=image, xyz=image, extras={"fpfh": cells})
    config = Config(**fields)
    system = btf.btf(config)
    state = jax.eval_shape(lambda b: system.init(jax.random.key(0), b), batch)
    rows = jax.eval_shape(
        lambda s, b: system.phases[0].emit(jax.random.key(0), s, b), state, batch
    )
    return state, rows["rows"].shape


@pytest.mark.parametrize(
    ("features", "dimensions"),
    [
        ("rgb", 1536),
        ("depth", 1536),
        ("raw", 64),
        ("hog", 8),
        ("sift", 128),
        ("fpfh", 33),
        ("rgb_fpfh", 1569),
    ],
)
def test_features_of_a_sample(features, dimensions):
    for fpfh in ("jnp", "open3d"):
        state, rows = shape_of(features=features, fpfh=fpfh)
        assert rows == (1, 784, dimensions)
        assert state.memory["bank"].rows.shape == (0, dimensions)
        assert ("backbone" in state.frozen) == (dimensions >= 1536)


def test_a_bank_keeps_a_tenth_of_a_class():
    phase = btf.btf(Config(features="fpfh")).phases[0]
    rows = {"rows": jax.ShapeDtypeStruct((244, 784, 33), jnp.float32)}
    assert phase.plan(None, rows).kept == 19_129


def test_a_raw_cell_is_a_run_of_pixels_and_no_block():
    z = np.arange(16 * 16, dtype=np.float32).reshape(1, 16, 16, 1)
    batch = Batch(xyz=np.concatenate([0 * z, 0 * z, z], -1))
    cells = raw_cells(Config(features="raw", cells=4), batch)
    assert cells.shape == (1, 4, 4, 16)
    np.testing.assert_array_equal(cells[0, 0, 1], np.arange(16, 32))
    np.testing.assert_array_equal(cells[0, 3, 3], np.arange(240, 256))


def test_depth_reaches_the_network_in_metres_as_it_is():
    batch = make_batch(1, size=64)
    config = Config(features="depth", **SMALL)
    frozen = jax.jit(btf.btf(config).init)(jax.random.key(0), batch).frozen
    found = cells_of(config)(frozen, batch)

    @jax.jit
    def by_hand(backbone):
        z = np.repeat(batch.xyz[..., 2:], 3, -1)
        layers = ("layer2", "layer3")
        maps = RESNETS["resnet18"].apply({"params": backbone}, z, layers)
        return jnp.concatenate([cell_pool(x, 8) for x in maps], -1)

    expected = by_hand(frozen["backbone"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_parts_lie_side_by_side_unscaled():
    batch = make_batch(1, size=64)
    joined = Config(features="rgb_fpfh", **SMALL)
    frozen = jax.jit(btf.btf(joined).init)(jax.random.key(0), batch).frozen
    cells = np.asarray(cells_of(joined)(frozen, batch))
    rgb = cells_of(Config(features="rgb", **SMALL))(frozen, batch)
    fpfh = cells_of(Config(features="fpfh", **SMALL))({}, batch)
    np.testing.assert_allclose(cells[..., :384], rgb, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cells[..., 384:], fpfh, rtol=1e-5, atol=1e-4)
    # An inner cell lies on the board everywhere: each histogram sums to 200.
    sums = cells[0, 4, 4, 384:].reshape(3, 11).sum(1)
    np.testing.assert_allclose(sums, 200, rtol=1e-4)


def test_points_on_an_axis_do_not_count():
    batch = make_batch(1, size=32)
    config = Config(features="fpfh", cells=8)
    moved = batch.xyz + np.float32([1, 1, 0])
    moved[:, :8] = 0
    shown = moved.copy()
    shown[:, :8] = (0, 1, 0.5)  # measured, but x = 0
    one, other = (cells_of(config)({}, Batch(xyz=x)) for x in (moved, shown))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one[0, 0]).max() == 0 and one[0, 7].min() >= 0


def scored(queries, bank, side=16, **fields):
    """Returns the scores of samples whose cells are given."""
    size = int(np.sqrt(queries.shape[1]))
    config = Config(features="fpfh", fpfh="open3d", cells=size, **fields)
    system = btf.btf(config)
    cells = np.float32(queries).reshape(len(queries), size, size, -1)
    batch = Batch(
        xyz=np.zeros((len(queries), side, side, 3), np.float32), extras={"fpfh": cells}
    )
    state = system.init(jax.random.key(0), batch)
    memory = {
        "bank": knn.build(np.float32(bank)),
        "origin": np.arange(len(bank), dtype=np.int32),
    }
    state = state._replace(memory=memory)
    return jax.jit(system.score)(jax.random.key(1), state, batch)


BANK = [(0, 0), (1, 0), (0, 2), (5, 5)]


def test_score_and_match_by_hand():
    # Sheet §10, fact 5; two cells more, each a row of the bank, change nothing.
    queries = np.array([[(3, 4), (0, 1), (0, 0), (1, 0)]])
    scores = scored(queries, BANK, match=True, blur="gaussian", blur_radius=0.5)
    np.testing.assert_allclose(scores.image, [1.9377], atol=1e-4)
    assert scores.map.shape == (1, 16, 16, 1)
    # Row 3 of the bank is the last cell of sample 0.
    np.testing.assert_array_equal(scores.match, [[4, 4, 0, 12, 12]])


def test_maps_have_256_levels_at_most():
    generator = np.random.default_rng(4)
    scores = scored(generator.normal(size=(2, 64, 2)), BANK, side=64)
    for map in np.asarray(scores.map, np.float64):
        assert len(np.unique(map)) <= 256
    exact = scored(generator.normal(size=(2, 64, 2)), BANK, side=64, blur="gaussian")
    assert len(np.unique(np.asarray(exact.map))) > 1000


def test_needs_follow_the_feature_set():
    def needs(**fields):
        system = btf.btf(Config(**fields))
        return system.needs_fit, system.needs_score

    assert needs(features="rgb") == (("rgb",), ("rgb",))
    for features in ("depth", "raw", "hog", "sift", "fpfh"):
        assert needs(features=features) == (("xyz",), ("xyz",))
    assert needs() == (("rgb", "xyz"), ("rgb", "xyz"))
    assert needs(fpfh="open3d")[1] == ("rgb", "extras.fpfh")
    alone = needs(features="fpfh", fpfh="open3d")
    assert alone == (("extras.fpfh",), ("xyz", "extras.fpfh"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": "hogs"}, "model.features: expected one of .*'hogs'"),
        ({"backbone": "vgg"}, "model.backbone: expected one of"),
        ({"backbone": ""}, "model.backbone: expected one of"),
        ({"backbone": "vit_base_patch8_224"}, "model.layers: .* found .'layer2', "),
        ({"fpfh": "pcl"}, "model.fpfh: expected one of"),
        ({"precision": "float64"}, "model.precision: expected one of"),
        ({"blur": "box"}, "model.blur: expected one of"),
        ({"fraction": 0.0}, "fraction"),
        ({"cells": 0}, "model.cells"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        btf.btf(Config(**fields))


def test_images_that_do_not_suit_are_refused():
    for features in ("raw", "hog"):
        with pytest.raises(ValueError, match="multiple of model.cells = 28, found 230"):
            shape_of(side=230, features=features)
    with pytest.raises(ValueError, match="recipe's FPFH has 28 x 28 cells, found 14"):
        shape_of(features="fpfh", fpfh="open3d", cells=14)


# --- The configuration ----------------------------------------------------------------


def test_variants_name_the_seven_sets():
    assert set(FEATURE_SETS) <= set(VARIANTS)
    for name in FEATURE_SETS:
        config = get_config(name)
        assert config.model.features == name
        assert bool(config.model.backbone) == has_network(name)
    assert get_config().model.features == "rgb_fpfh"
    assert get_config("resnet18").model.backbone == "resnet18"
    assert get_config().model.source == "racm_in1k"
    for name in VARIANTS:
        btf.btf(Config(**get_config(name).model.to_dict()))


def test_one_flag_says_who_makes_fpfh(monkeypatch):
    file = "experiments/configs/btf.py"
    overrides = ["--config.model.fpfh=open3d", "--config.data.recipe=plane"]
    # The library looks for overrides in the command line itself.
    monkeypatch.setattr(sys, "argv", ["program", *overrides])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", file, flag_values=values)
    values(sys.argv)
    config = values.config
    assert config.data.recipe == "plane"
    assert config.model.fpfh == "open3d"
    assert "extras.fpfh" in btf.btf(Config(**config.model.to_dict())).needs_fit
    assert get_config().model.fpfh == "jnp"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["raw", "plane"])
def test_full_size_samples_run_through(native_class, tmp_path, recipe):
    libraries.open3d()
    config = get_config("fpfh")
    config.model.fpfh = "open3d"
    config.data.recipe = recipe
    config.data.root = str(native_class.parent)
    config.data.category = native_class.name
    config.data.cache = str(tmp_path / "cache")
    config.data.batch_size = config.eval.batch_size = 1
    config.fit.engine = "jit"
    metrics = run.run(config, str(tmp_path / "run"), "fit_eval")
    assert metrics["weights"] == {} and metrics["recipe"] == recipe
    assert metrics["p_auroc"] > 0.8  # two training samples
    assert (tmp_path / "run" / "report" / "index.html").is_file()
