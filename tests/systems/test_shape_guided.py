"""Shape-Guided against its sheet and against the public code, stage by stage.

How the stored outputs were made stands in tests/golden/README.md.
"""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.public_resnets import drawn_weights as drawn_resnet
from oracles.signed_distance import drawn_weights

from ad3d_jax.base import Batch, with_cache
from ad3d_jax.systems.shape_guided import distances, memories
from ad3d_jax.systems.shape_guided.patches import (
    Patches,
    any_patch,
    cover,
    cut,
    lowest_at_pixels,
)
from ad3d_jax.systems.shape_guided.shape_guided import Config, shape_guided
from data_pipelines.recipes.patches import normalised, spread_patches
from experiments.configs.shape_guided import VARIANTS, get_config

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "shape_guided"
SIDE, POINTS, OVERLAP, TRAIN, LIMIT = 56, 64, 4, 4, 96
CONFIG = Config(backbone="resnet18", source="")


def scans(count=6):
    """Colours [count,56,56,3] and points of an object; the last has a defect."""
    random = np.random.default_rng(84)
    y, x = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    rgb, xyz = [], []
    for n in range(count):
        cx, cy = 28 + random.uniform(-2, 2, 2)
        a = random.uniform(0, 6, 6)
        there = ((x - cx) / 20) ** 2 + ((y - cy) / 23) ** 2 < 1
        z = 0.5 - 0.02 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 400)
        z = z + 0.002 * np.sin(0.3 * x + a[0]) * np.cos(0.25 * y + a[1])
        red = 0.5 + 0.3 * np.sin(0.4 * x + a[2])
        green = 0.5 + 0.3 * np.cos(0.3 * y + a[3])
        blue = 0.5 + 0.2 * np.sin(0.2 * (x + y) + a[4])
        colour = np.stack([red, green, blue], -1)
        if n == count - 1:
            bump = (x - 36) ** 2 + (y - 24) ** 2 < 16
            z = z - 0.006 * bump
            colour = np.where(bump[..., None], 0.9 - colour, colour)
        points = np.stack([(x - 28.3) * 1e-3, (y - 27.6) * 1e-3, z], -1)
        points = points + random.normal(0, 2e-5, (SIDE, SIDE, 3))
        xyz.append(np.where(there[..., None], points, 0))
        colour = colour + random.normal(0, 0.02, colour.shape)
        rgb.append(np.clip(np.where(there[..., None], colour, 0), 0, 1) * 255)
    return np.stack(rgb).astype(np.uint8), np.stack(xyz).astype(np.float32)


@cache
def golden():
    return np.load(GOLDEN / "pipeline.npz")


@cache
def samples() -> Batch:
    """The scans with patches whose first centres are those that were drawn there."""
    rgb, xyz = scans()
    made = []
    for cloud, first in zip(
        xyz.reshape(len(xyz), -1, 3), golden()["first"], strict=True
    ):
        there = (cloud != 0).all(1)
        count = round(there.sum() * OVERLAP / POINTS)
        start = np.flatnonzero(there)[first]
        cloud = normalised(cloud, there)
        found = spread_patches(cloud, there, start, LIMIT, POINTS)
        stored = np.zeros((LIMIT, POINTS), np.uint16)
        stored[:count] = np.asarray(found)[:count] + 1
        made.append(stored)
    return Batch(
        rgb=rgb.astype(np.float32) / np.float32(255),
        xyz=xyz,
        extras={"patches": np.stack(made)},
        weight=np.ones(len(xyz), np.float32),
        id=np.arange(len(xyz), dtype=np.int32),
    )


def rows(batch: Batch, part: slice) -> Batch:
    return jax.tree.map(lambda x: x[part], batch)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(system, fitted state, seen by test samples) with the weights of the goldens."""
    folder = tmp_path_factory.mktemp("weights")
    system = shape_guided(CONFIG)
    batch = samples()
    like = jax.eval_shape(system.init, jax.random.key(0), batch)
    np.savez(folder / "sdf.npz", **drawn_weights(82))
    np.savez(folder / "resnet.npz", **drawn_resnet("resnet18", 81, 2))
    by_name = {row.name: row for row in system.pretrained}
    sdf = by_name["distances"]
    network = by_name["backbone"]
    state = like._replace(
        memory=memories.empty(CONFIG, 192),
        hyper={"learning_rate": np.float32(1e-4)},
    )
    state = sdf.put(state, sdf.read(folder / "sdf.npz", sdf.get(like)))
    state = network.put(state, network.read(folder / "resnet.npz", network.get(like)))
    cached = jax.jit(lambda s, b: with_cache(system, s, b))(state, batch)
    _, fill, align = system.phases
    train = rows(jax.device_get(cached), slice(TRAIN))
    emitted = jax.device_get(jax.jit(fill.emit)(jax.random.key(0), state, train))
    state = fill.absorb(jax.random.key(0), state, emitted)
    sums = jax.device_get(jax.jit(align.emit)(jax.random.key(0), state, train))
    state = align.finish(jax.random.key(0), state, sums)
    test = rows(jax.device_get(cached), slice(TRAIN, None))
    scores = jax.device_get(jax.jit(system.score)(jax.random.key(0), state, test))
    return system, state, train, test, scores


def near(found, expected, tolerance=1e-4):
    """Compares arrays within a share of the largest expected magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


# --- Stage by stage -------------------------------------------------------------------


def test_patches_are_those_of_the_public_code():
    stored = samples().extras["patches"].astype(int) - 1
    for n, count in enumerate(golden()["counts"]):
        assert (stored[n, :count] >= 0).all() and (stored[n, count:] < 0).all()
        np.testing.assert_array_equal(stored[n, :90, 0], golden()["centres"][n])
    for n in range(2):
        expected = golden()[f"pixels_{n}"]
        np.testing.assert_array_equal(stored[TRAIN + n, : len(expected)], expected)


def test_codes_and_their_neighbours_are_those_of_the_public_code(run):
    _, state, _, test, _ = run
    near(
        state.memory["codes"].rows[::40] + state.memory["codes"].mean,
        golden()["stored_codes"],
    )
    patches = cut(test)
    codes = jax.jit(lambda s: distances.encode(CONFIG, s, patches))(state)
    found = jax.jit(
        lambda c: memories.rebuild(CONFIG, state.memory["codes"], c, 10, False)
    )(codes)
    for n, count in enumerate(golden()["counts"][TRAIN:]):
        near(codes[n, :count:5], golden()[f"codes_{n}"])
        np.testing.assert_array_equal(found.number[n, :count], golden()[f"near_{n}"])
        near(found.rebuilt[n, :count:5], golden()[f"rebuilt_{n}"])
        near(np.max(found.residual[n, :count]), golden()[f"s3_{n}"])


def test_cells_and_library_are_those_of_the_public_code(run):
    _, state, _, test, _ = run
    covered = np.asarray(cover(cut(test), (SIDE, SIDE), 28))
    used = np.unpackbits(golden()["used"]).astype(bool)
    np.testing.assert_array_equal(state.memory["origin"], np.flatnonzero(used))
    near(
        (state.memory["rgb"].rows + state.memory["rgb"].mean)[::100, ::4],
        golden()["rgb_rows"],
    )
    for n, count in enumerate(golden()["counts"][TRAIN:]):
        expected = np.unpackbits(golden()[f"cells_{n}"]).reshape(-1, 784)
        np.testing.assert_array_equal(covered[n, :count:3], expected)


def test_maps_and_scores_are_those_of_the_public_code(run):
    _, state, _, _, scores = run
    np.testing.assert_allclose(
        state.memory["line"]["factor"], golden()["weight"], rtol=1e-3
    )
    np.testing.assert_allclose(
        state.memory["line"]["offset"],
        golden()["bias"],
        atol=1e-3 * np.abs(golden()["rgb_0"]).max(),
    )
    np.testing.assert_allclose(scores.image, golden()["image"], rtol=1e-3)
    for n in range(2):
        for name, found in (("map", scores.map), *scores.parts.items()):
            # A level of the 8-bit blur is 1/255 of the largest value.
            expected = golden()[f"{name}_{n}"]
            off = np.abs(found[n, ..., 0] - expected) / expected.max()
            assert off.max() < 1.5 / 255 and np.mean(off > 1e-3) < 0.01


# --- The sheet's facts ----------------------------------------------------------------


def test_cells_of_a_pixel_wrap_and_are_replaced_as_in_the_release():
    def of(*pixels):
        index = np.array(pixels, np.int32)[None, None]
        patch = Patches(np.ones((1, 1), bool), index, np.zeros((1, 1, len(pixels), 3)))
        return np.flatnonzero(cover(patch, (224, 224), 28)[0, 0]).tolist()

    assert of(100 * 224 + 60) == [287, 341, 345, 399]  # around cell 12 * 28 + 7
    # Cell 0: 2, -2, 56, -56; numbers below 0 become the largest.
    assert of(0) == [2, 56]
    # Cell 783: 785, 781, 839, 727; numbers beyond become the smallest.
    assert of(224 * 224 - 1) == [727, 781]
    # Both: what was below 0 becomes 839, which is beyond, and then the smallest.
    assert of(0, 224 * 224 - 1) == [2, 56, 727, 781]
    # Cell 27, at the end of a row: 29 is in the next one, and -29 becomes 83.
    assert of(223) == [25, 29, 83]


def test_patches_are_centred_and_their_largest_extent_is_one(run):
    patches = cut(run[3])
    points = np.asarray(patches.points)[np.asarray(patches.there)]
    np.testing.assert_allclose(points.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(np.ptp(points, axis=1).max(1), 1, rtol=1e-5)


def test_a_patch_that_is_stored_has_no_residual_unless_it_is_left_out(run):
    _, state, train, _, _ = run
    codes = jax.jit(lambda s: distances.encode(CONFIG, s, cut(train)))(state)
    there = np.asarray(cut(train).there)
    for itself in (False, True):
        found = memories.rebuild(CONFIG, state.memory["codes"], codes, 10, itself)
        residual = np.asarray(found.residual)[there]
        if itself:
            assert residual.min() > 1e-3
        else:
            assert residual.max() < 1e-5


def test_two_ranges_are_put_on_each_other():
    line = memories.straight((1.0, 3.0), (-2.0, 6.0))
    assert line["factor"] * 1.0 + line["offset"] == pytest.approx(-2.0)
    assert line["factor"] * 3.0 + line["offset"] == pytest.approx(6.0)
    same = memories.straight((0.5, 2.0), (0.5, 2.0))
    assert (same["factor"], same["offset"]) == (1.0, 0.0)
    flat = memories.straight((2.0, 2.0), (1.0, 5.0))
    assert (flat["factor"], flat["offset"]) == (1.0, -1.0)
    values = np.array([0.0, 1.0, 2.0, 6.0])
    sums = {"count": 3, "total": values.sum(), "square": (values**2).sum()}
    low, high = memories.spread(sums)
    np.testing.assert_allclose(low, 3 - 3 * values[1:].std())
    np.testing.assert_allclose(high, 3 + 3 * values[1:].std())
    with pytest.raises(ValueError, match="is 0 throughout"):
        memories.spread({"count": 0, "total": 0, "square": 0})


def test_the_smallest_distance_that_is_not_zero_counts_at_a_pixel():
    pixel = np.array([[[0, 1, 3], [1, 0, 3], [2, 2, 2]]], np.int32)
    there = np.array([[True, True, False]])
    values = np.float32([[[0.5, 0.2, 0.0], [0.3, 0.4, 0.0], [9, 9, 9]]])
    patches = Patches(there, pixel, np.zeros((1, 3, 3, 3)))
    found = lowest_at_pixels(patches, values, (2, 2))
    np.testing.assert_allclose(found[0, ..., 0], [[0.4, 0.2], [0, 0]])


def test_queries_lie_around_the_patch_at_two_distances():
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 2, [0.0]), -1).reshape(-1, 3)
    points = np.float32(np.broadcast_to(grid, (4, 64, 3)))
    there = np.array([True, True, True, False])
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = jax.jit(jax.vmap(lambda key: distances.around(1, key, points, there)))(keys)
    off = np.asarray(drawn.query - points[0][None, None])
    squared = ((grid[:, None] - grid[None]) ** 2).sum(-1)
    spread = np.sqrt(np.sort(squared, axis=1)[:, 50])  # itself is the first
    wide = (off / spread[None, None, :, None]).std((1, 2, 3))
    near = wide < 0.75
    assert 0.57 < near.mean() < 0.73  # 13 of 20 sets
    np.testing.assert_allclose(wide[near].mean(), 0.5, rtol=0.02)
    np.testing.assert_allclose(wide[~near].mean(), 1.0, rtol=0.02)
    squared = ((drawn.query[:, 0, :, None] - points[0][None, None]) ** 2).sum(-1)
    expected = points[0][np.asarray(squared).argmin(-1)]
    np.testing.assert_array_equal(drawn.target[:, 0], expected)


def test_patches_of_a_step_are_of_the_first_half():
    points = np.float32(np.arange(10)[:, None, None] + np.random.rand(10, 5, 3) * 1e-3)
    there = np.arange(10) < 7
    draw = jax.jit(lambda key: distances.around(200, key, points, there).target)
    found = np.floor(np.asarray(draw(jax.random.key(1)))[..., 0])
    assert set(np.unique(found)) == {0, 1, 2, 3}


def test_features_of_the_release_have_768_numbers():
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    stored = jax.ShapeDtypeStruct((1, 640, 500), jnp.uint16)
    batch = Batch(rgb=image, xyz=image, extras={"patches": stored})
    system = shape_guided()
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    assert state.memory["rgb"].rows.shape == (0, 768)
    cached = jax.eval_shape(system.cache, state, batch)
    assert cached["rgb_cells"].shape == (1, 28, 28, 768)
    patches = jax.eval_shape(cut, batch)
    codes = jax.eval_shape(
        lambda s, p: distances.encode(Config(), s, p), state, patches
    )
    assert codes.shape == (1, 640, 128)


# --- What may be missing --------------------------------------------------------------


def test_a_sample_without_patches_scores_zero(run):
    system, state, _, test, _ = run
    nothing = {**test.extras, "patches": 0 * test.extras["patches"]}
    scores = jax.jit(system.score)(
        jax.random.key(0), state, test._replace(extras=nothing)
    )
    assert not np.asarray(any_patch(test._replace(extras=nothing))).any()
    assert not np.asarray(scores.image).any() and np.isfinite(scores.map).all()


def test_a_class_without_patches_is_an_error(run):
    system, state, _, _, _ = run
    rows = {"there": np.zeros((3, 4), bool), "codes": np.zeros((3, 4, 128))}
    with pytest.raises(ValueError, match="more than 10 patches in 3 .* found 0"):
        system.phases[1].absorb(jax.random.key(0), state, rows)


def test_samples_are_aligned_by_their_ids(run):
    system, state, train, test, _ = run
    memory = {**state.memory, "aligned": np.array([False, True, False, True])}
    weigh = system.phases[2].weigh
    found = weigh(state._replace(memory=memory), train)
    np.testing.assert_array_equal(found, [0, 1, 0, 1])
    np.testing.assert_array_equal(weigh(state._replace(memory=memory), test), [0, 0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"neighbours": 2}, "model.neighbours: expected at least model.atoms = 3"),
        ({"rgb_neighbours": 2}, "model.rgb_neighbours: expected at least"),
        ({"encoder_widths": (8, 8)}, "model.encoder_widths: expected three"),
        ({"result": "depth"}, "model.result: expected one of"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)


def test_cells_that_do_not_divide_the_image_are_refused(run):
    with pytest.raises(ValueError, match="multiple of 28, found 50 x 50"):
        cover(cut(run[3]), (50, 50), 28)


# --- The configuration ----------------------------------------------------------------


def test_variants_name_the_rows_of_the_tables():
    for name in VARIANTS:
        shape_guided(Config(**get_config(name).model.to_dict()))
    needs = {
        name: shape_guided(Config(result=name)) for name in ("fused", "rgb", "sdf")
    }
    assert needs["fused"].needs_score == ("rgb", "xyz", "extras.patches")
    assert needs["sdf"].needs_score == ("xyz", "extras.patches")
    assert [p.name for p in needs["fused"].phases][1:] == ["memories", "alignment"]
    assert [p.name for p in needs["rgb"].phases][1:] == ["memories"]
    assert [row.name for row in needs["sdf"].pretrained] == ["distances"]
