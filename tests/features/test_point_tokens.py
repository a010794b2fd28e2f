"""Tokens of point groups against the public networks, and weights in every form.

How the stored outputs were made stands in tests/golden/README.md.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.public_point_transformers import cloud, drawn_weights, public_shapes

from ad3d_jax.base import State
from ad3d_jax.features import points, weights
from ad3d_jax.features.point_maps import point_map
from ad3d_jax.ops.point_sets import Interpolation, farthest_points, nearest_points

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "point_transformers.npz"
SOURCE = "nomewang/M3DM 62b7f46"
TAPS = ("block4", "block8", "block12")
OPTIONS = ("name", "layers", "groups", "group_size", "statistics")

features = jax.jit(points.point_features, static_argnames=OPTIONS)
small = partial(features, name="point_mae", layers=("block1",), groups=8, group_size=4)


def shapes(name, deepest="block12"):
    build = partial(points.init_points, name=name, deepest=deepest)
    return jax.eval_shape(build, jax.random.key(0))


def in_memory(arrays):
    """A file of weights that was read, without a file."""
    return weights.WeightFile(Path("w.npz"), arrays, "0" * 64, {})


def public(name, seed, deepest="block12"):
    file = in_memory(drawn_weights(name, seed))
    return points.read_points(file, name, shapes(name, deepest))


def organised(*seeds):
    xyz = np.stack([cloud(seed) for seed in seeds])
    return xyz, np.all(xyz != 0, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def point_mae():
    return public("point_mae", 81)


@pytest.fixture(scope="module")
def one_block():
    return public("point_mae", 81, "block1")


# --- The public networks --------------------------------------------------------------


def test_groups_are_the_public_ones(golden, parity):
    xyz, valid = (x[0].reshape(24 * 24, -1) for x in organised(91))
    pick = jax.jit(farthest_points, static_argnums=(2, 4))
    centres = pick(xyz, valid[:, 0], 24, None, 1e-3)
    np.testing.assert_array_equal(centres.index, golden["centres"])
    picks = centres.index, golden["centres"]
    parity("Point-MAE", SOURCE, "farthest points, picks", *picks)
    anywhere = pick(xyz, valid[:, 0], 24, None, -1.0)
    assert (np.asarray(anywhere.index) != golden["centres"]).any()  # the rule matters
    group = jax.jit(nearest_points, static_argnums=3)
    found = group(xyz, valid[:, 0], centres.xyz, 16)
    np.testing.assert_array_equal(found, golden["groups"])
    parity("Point-MAE", SOURCE, "groups, picks", found, golden["groups"])


def test_tokens_and_maps_are_those_of_point_mae(golden, point_mae, parity):
    xyz, valid = organised(91)
    found = features(point_mae, "point_mae", xyz, valid, TAPS, groups=24, group_size=16)
    assert found.tokens.shape == (1, 24, 1152) and found.index.shape == (1, 576, 3)
    expected = golden["point_mae_tokens"]
    np.testing.assert_allclose(found.tokens[0, :, ::8], expected, atol=1e-5)
    parity("Point-MAE", SOURCE, "tokens", found.tokens[0, :, ::8], expected)
    back = Interpolation(found.index[0], found.weight[0])
    for cells, step in ((6, 1), (24, 5)):
        ours = point_map(found.tokens[0], back, (24, 24), cells)[::step, ::step, ::16]
        np.testing.assert_allclose(ours, golden[f"cells{cells}"], atol=1e-5)
        parity("Point-MAE", SOURCE, "map of cells", ours, golden[f"cells{cells}"])


def test_statistics_of_the_cloud_are_those_of_a_network_in_training(
    golden, point_mae, parity
):
    # The other cloud of the batch changes nothing.
    xyz, valid = organised(91, 92)
    found = features(
        *(point_mae, "point_mae", xyz, valid, TAPS[:1]),
        groups=24,
        group_size=16,
        statistics="batch",
    )
    expected = golden["point_mae_batch_tokens"][:, :24]
    np.testing.assert_allclose(found.tokens[0, :, ::16], expected, atol=1e-5)
    tokens = found.tokens[0, :, ::16], expected
    parity("Point-MAE", SOURCE, "tokens in training mode", *tokens)
    assert np.abs(expected - golden["point_mae_tokens"][:, :48:2]).max() > 0.5


def test_tokens_are_those_of_point_bert(golden, parity):
    xyz, valid = organised(91)
    params = public("point_bert", 82, "block4")
    found = features(
        params, "point_bert", xyz, valid, ("block4",), groups=24, group_size=16
    )
    expected = golden["point_bert_tokens"][:, :48]
    np.testing.assert_allclose(found.tokens[0, :, ::8], expected, atol=1e-5)
    parity("Point-BERT", SOURCE, "tokens", found.tokens[0, :, ::8], expected)


# --- Clouds ---------------------------------------------------------------------------


def test_clouds_do_not_touch_each_other_and_gaps_may_hold_nan(one_block):
    xyz, valid = organised(93, 94, 95)
    xyz = np.where(valid, xyz, np.nan)
    one, other = (
        small(one_block, xyz=xyz[place], valid=valid[place])
        for place in ([0, 1], [2, 0])
    )
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first[0], second[1], atol=1e-5)
    assert np.abs(one.tokens[1] - other.tokens[0]).max() > 0.1


def test_clouds_of_few_points_and_of_none_are_finite(one_block):
    xyz, valid = organised(93, 94)
    few = np.zeros_like(valid)
    few[0].reshape(-1)[np.flatnonzero(valid[0])[5:8]] = True
    found = small(one_block, xyz=xyz, valid=few)
    assert np.isfinite(found.tokens).all()
    there = few.reshape(2, -1)
    np.testing.assert_allclose(found.weight.sum(-1), there, atol=1e-6)
    assert not found.centres[1].any()


def test_stochastic_depth_is_of_a_clouds_key():
    xyz, valid = organised(93, 93)
    params = public("point_mae", 81, "block2")
    run = partial(small, params, xyz=xyz, valid=valid, layers=("block2",))
    keys = jax.random.split(jax.random.key(9), 40).reshape(20, 2)
    tokens = np.stack([run(keys=pair).tokens for pair in keys])
    first = tokens[:, 0]
    # The second block drops each of its two branches with 1/110: here one cloud's each.
    alike = [np.abs(first - one).max((1, 2)) < 1e-5 for one in first]
    assert max(map(np.sum, alike)) == 18
    again = run(keys=keys[3, ::-1]).tokens
    np.testing.assert_array_equal(again, tokens[3, ::-1])


def test_unknown_names_are_told(one_block):
    xyz, valid = organised(93)
    run = partial(points.point_features, one_block)
    with pytest.raises(ValueError, match="points: expected one of.*found 'pointnet'"):
        points.init_points(jax.random.key(0), "pointnet")
    with pytest.raises(ValueError, match="layers: expected some of.*found .'block13'"):
        run("point_mae", xyz, valid, ("block13",))
    with pytest.raises(ValueError, match="block2 is deeper.* end at block1"):
        run("point_mae", xyz, valid, ("block1", "block2"))
    with pytest.raises(ValueError, match="statistics: expected one of.*found 'mean'"):
        run("point_mae", xyz, valid, ("block1",), statistics="mean")
    with pytest.raises(ValueError, match=r"found \(1, 24, 24, 3\) and \(1, 24, 24\)"):
        run("point_mae", xyz, valid[..., 0], ("block1",))


def test_lowers_for_every_platform_under_strict_promotion():
    def run(params, xyz, valid, keys):
        return points.point_features(
            *(params, "point_bert", xyz, valid, ("block1",), 8, 4, "batch"), keys
        )

    params = shapes("point_bert", "block1")
    inputs = (
        jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32),
        jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.bool_),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2)),
    )
    platforms = ("cpu", "cuda", "tpu")
    with jax.numpy_dtype_promotion("strict"):
        exported = jax.export.export(jax.jit(run), platforms=platforms)
        assert exported(params, *inputs).platforms == platforms


# --- Weights --------------------------------------------------------------------------


def checkpoint(name):
    """A file as published: the network in its wrappers, and what stands beside it."""
    zeros = np.zeros(2, np.float32)
    around = {
        "point_mae": "base_model.module.MAE_encoder.",
        "point_bert": "base_model.transformer_q.",
    }[name]
    beside = {
        "point_mae": ("mask_token", "MAE_decoder.blocks.0.norm1.weight"),
        "point_bert": (
            "transformer_k.norm.weight",
            "transformer_q.lm_head.bias",
            "transformer_q.cls_head.0.weight",
            "dvae.encoder.first_conv.0.weight",
        ),
    }[name]
    inner = around.removesuffix("MAE_encoder.").removesuffix("transformer_q.")
    found = {f"{inner}{place}": zeros for place in beside}
    found["optimizer.state.0.exp_avg"] = zeros
    for place, shape in public_shapes(name).items():
        found[around + place] = np.broadcast_to(np.float32(1), shape)
    return {place.replace(".", "/"): array for place, array in found.items()}


@pytest.mark.parametrize("name", points.POINT_NETWORKS)
@pytest.mark.parametrize("deepest", ["block12", "block4"])
def test_whole_checkpoints_are_read(name, deepest):
    like = shapes(name, deepest)
    params = points.read_points(in_memory(checkpoint(name)), name, like)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, like)


def test_a_classifier_is_point_mae_with_a_class_token_that_is_passed_over():
    found = {
        **{f"base_model.{n}": v for n, v in drawn_weights("point_mae", 3, 1).items()},
        "base_model.cls_token": np.zeros((1, 1, 384), "f4"),
        "base_model.cls_head_finetune.0.weight": np.zeros((256, 768), "f4"),
    }
    like = shapes("point_mae", "block1")
    read = partial(points.read_points, name="point_mae", like=like)
    expected = read(in_memory(drawn_weights("point_mae", 3, 1)))
    jax.tree.map(np.testing.assert_array_equal, read(in_memory(found)), expected)


def test_our_own_files_are_read_back(tmp_path, one_block):
    weights.save(tmp_path / "own.safetensors", one_block)
    like = shapes("point_mae", "block1")
    found = points.read_points(tmp_path / "own.safetensors", "point_mae", like)
    jax.tree.map(np.testing.assert_array_equal, found, one_block)


def test_what_does_not_fit_is_listed():
    like = shapes("point_mae", "block1")
    read = partial(points.read_points, name="point_mae", like=like)
    with pytest.raises(ValueError, match="(?s)second_conv/3/weight.*of point_mae"):
        read(in_memory(drawn_weights("point_bert", 3, 1)))
    found = drawn_weights("point_mae", 3, 1)
    with pytest.raises(ValueError, match="unexpected: blocks/blocks/0/attn/qkv/bias"):
        read(in_memory(found | {"blocks.blocks.0.attn.qkv.bias": np.ones(1152, "f4")}))
    found["norm.weight"] = found["norm.weight"] * np.nan
    with pytest.raises(ValueError, match="not finite.*norm/weight"):
        read(in_memory(found))


def test_a_file_is_brought_into_the_state(one_block):
    row = points.pretrained_points("point_mae")
    state = State(
        frozen={"points": shapes("point_mae", "block1"), "other": jnp.ones(2)}
    )
    file = in_memory(drawn_weights("point_mae", 81))
    after = row.put(state, row.read(file, row.get(state)))
    jax.tree.map(np.testing.assert_array_equal, row.get(after), one_block)
    assert after.frozen["other"] is state.frozen["other"] and row.name == "points"
    with pytest.raises(ValueError, match="points: expected one of"):
        points.pretrained_points("pointnet")
