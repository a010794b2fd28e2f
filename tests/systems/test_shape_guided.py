"""Shape-Guided against its sheet and against the public code, stage by stage.

How the stored outputs were made stands in tests/golden/README.md.
"""

from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.public_resnets import drawn_weights as drawn_resnet
from oracles.signed_distance import drawn_weights
from scipy.spatial import cKDTree

from ad3d_jax.base import Batch, Scores, State, System, with_cache
from ad3d_jax.features.patches import as_rows
from ad3d_jax.ops import knn
from ad3d_jax.ops.resize import resize_bilinear
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
RELEASE = "Shape-Guided", "jayliu0313/Shape-Guided c530e15"
SIDE, POINTS, OVERLAP, TRAIN, LIMIT = 56, 32, 1, 3, 48
# Maps of which one is as fine as the cells. Cells of coarser ones are means of the same
# few numbers, so that distances tie and rounding alone says which of them are found.
CONFIG = Config(backbone="resnet18", layers=("conv1", "layer1"), source="")


def scans(count=5):
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


class Run(NamedTuple):
    """A system with the weights of the goldens, and what it makes of the samples."""

    system: System
    state: State  # fitted
    train: Batch  # with the features of the cache
    test: Batch
    emitted: dict  # by the training samples
    seen: dict  # of the test samples, stage by stage
    scores: Scores


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder, key = tmp_path_factory.mktemp("weights"), jax.random.key(0)
    system, batch = shape_guided(CONFIG), samples()
    like = jax.eval_shape(system.init, key, batch)
    drawn = {n.replace(".", "/"): x for n, x in drawn_weights(82).items()}
    names = {f"sdf_model/{name}": x for name, x in drawn.items()}
    np.savez(folder / "distances.npz", **names)
    np.savez(folder / "backbone.npz", **drawn_resnet("resnet18", 81, 4))
    state = like._replace(memory=memories.empty(CONFIG, 128))
    for row in system.pretrained:
        state = row.put(state, row.read(folder / f"{row.name}.npz", row.get(like)))
    state = state._replace(hyper={"learning_rate": np.float32(1e-4)})
    with_cells = jax.jit(lambda s, b: with_cache(system, s, b))
    cached = jax.device_get(with_cells(state, batch))
    train, test = (rows(cached, x) for x in (slice(TRAIN), slice(TRAIN, None)))
    _, fill, align = system.phases
    emitted = jax.device_get(jax.jit(fill.emit)(key, state, train))
    state = fill.absorb(key, state, emitted)
    sums = jax.device_get(jax.jit(align.emit)(key, state, train))
    state = align.finish(key, state, sums)
    seen = jax.device_get(jax.jit(stages)(state, test, emitted["codes"]))
    scores = jax.device_get(jax.jit(system.score)(key, state, test))
    return Run(system, state, train, test, emitted, seen, scores)


def stages(state, test, train_codes):
    """Returns what the system makes of test samples, and of training ones' codes."""
    patches = cut(test)
    codes = distances.encode(CONFIG, state, patches)
    rebuild = partial(memories.rebuild, CONFIG)
    found = rebuild(state.memory["codes"], codes, 10, False)
    off = distances.distances(CONFIG, state, patches, found.rebuilt)
    allowed = memories.allowed_cells(state.memory, found.number, patches.there)
    cells = as_rows(test.extras["rgb_cells"])
    colour = rebuild(state.memory["rgb"], cells, 5, False, allowed)
    covered = cover(patches, (SIDE, SIDE), 28)
    grid = jnp.where(jnp.any(covered, axis=1), colour.residual, 0)
    return {
        "codes": codes,
        "shape": found,
        "sdf": lowest_at_pixels(patches, off, (SIDE, SIDE)),
        "cover": covered,
        "colour": colour,
        "rgb": resize_bilinear(grid.reshape(-1, 28, 28, 1), (SIDE, SIDE)),
        "train": [
            rebuild(state.memory["codes"], train_codes, 10, itself)
            for itself in (False, True)
        ],
    }


def near(found, expected, tolerance=1e-4):
    """Compares arrays within a share of the largest expected magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


# --- Stage by stage -------------------------------------------------------------------


def test_patches_are_those_of_the_public_code(parity):
    stored = samples().extras["patches"].astype(int) - 1
    for n, count in enumerate(golden()["counts"]):
        assert (stored[n, :count] >= 0).all() and (stored[n, count:] < 0).all()
        np.testing.assert_array_equal(stored[n, :45, 0], golden()["centres"][n])
    for n in range(2):
        expected = golden()[f"pixels_{n}"]
        found = stored[TRAIN + n, : len(expected)]
        np.testing.assert_array_equal(found, expected)
        parity(*RELEASE, "patches, pixels", found, expected)


def test_codes_and_their_neighbours_are_those_of_the_public_code(run, parity):
    bank, found = run.state.memory["codes"], run.seen["shape"]
    stored = (bank.rows + bank.mean)[::20], golden()["stored_codes"]
    near(*stored)
    parity(*RELEASE, "codes, bank", *stored)
    for n, count in enumerate(golden()["counts"][TRAIN:]):
        codes = run.seen["codes"][n, :count:3], golden()[f"codes_{n}"]
        neighbours = found.number[n, :count], golden()[f"near_{n}"]
        rebuilt = found.rebuilt[n, :count:3], golden()[f"rebuilt_{n}"]
        score = np.max(found.residual[n, :count]), golden()[f"s3_{n}"]
        distances = run.seen["sdf"][n, ..., 0], golden()[f"sdf_{n}"]
        near(*codes)
        np.testing.assert_array_equal(*neighbours)
        near(*rebuilt)
        near(*score)
        near(*distances)
        parity(*RELEASE, "codes", *codes)
        parity(*RELEASE, "codes, neighbours", *neighbours)
        parity(*RELEASE, "codes, rebuilt", *rebuilt)
        parity(*RELEASE, "points, score", *score)
        parity(*RELEASE, "points, signed distances", *distances)


def test_cells_and_their_neighbours_are_those_of_the_public_code(run, parity):
    bank, found = run.state.memory["rgb"], run.seen["colour"]
    used = np.unpackbits(golden()["used"]).astype(bool)
    np.testing.assert_array_equal(run.state.memory["origin"], np.flatnonzero(used))
    stored = (bank.rows + bank.mean)[::50, ::2], golden()["rgb_rows"]
    near(*stored)
    parity(*RELEASE, "RGB, bank", *stored)
    for n, count in enumerate(golden()["counts"][TRAIN:]):
        covered = run.seen["cover"][n, :count]
        expected = np.unpackbits(golden()[f"cells_{n}"]).reshape(-1, 784)
        np.testing.assert_array_equal(covered, expected)
        seen = covered.any(0)
        np.testing.assert_array_equal(np.flatnonzero(seen), golden()[f"foreground_{n}"])
        cell = run.state.memory["origin"][found.number[n, seen]]
        np.testing.assert_array_equal(cell, golden()[f"rgb_near_{n}"])
        parity(*RELEASE, "RGB, neighbours", cell, golden()[f"rgb_near_{n}"])
        score = found.residual[n, seen].max(), golden()[f"s2_{n}"]
        near(*score)
        parity(*RELEASE, "RGB, score", *score)
        residual = run.seen["rgb"][n, ..., 0], golden()[f"rgb_{n}"]
        near(*residual)
        parity(*RELEASE, "RGB, residual", *residual)


def test_the_alignment_is_that_of_the_public_code(run, parity):
    line = run.state.memory["line"]
    for name, public in (("factor", "weight"), ("offset", "bias")):
        near(line[name], golden()[public])
        parity(*RELEASE, f"alignment, {name}", line[name], golden()[public])


def test_maps_and_scores_are_those_of_the_public_code(run, parity):
    scores = run.scores
    near(scores.image, golden()["image"], 1e-3)
    parity(*RELEASE, "image score", scores.image, golden()["image"])
    what = {"map": "map", "map_sdf": "map of points", "map_rgb": "map of RGB"}
    for n in range(2):
        for name, found in (("map", scores.map), *scores.parts.items()):
            both = found[n, ..., 0], golden()[f"{name}_{n}"]
            near(*both, 1e-3)
            parity(*RELEASE, what[name], *both)


# --- The sheet's facts ----------------------------------------------------------------


def test_cells_of_a_pixel_wrap_and_are_replaced_as_in_the_release():
    covered = jax.jit(partial(cover, size=(224, 224), cells=28))

    def of(first, last=None):
        index = np.array([first, first if last is None else last], np.int32)
        there, points = np.ones((1, 1), bool), np.zeros((1, 1, 2, 3))
        found = covered(Patches(there, index[None, None], points))
        return np.flatnonzero(found[0, 0]).tolist()

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
    patches = jax.jit(cut)(run.test)
    points = np.asarray(patches.points)[np.asarray(patches.there)]
    np.testing.assert_allclose(points.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(np.ptp(points, axis=1).max(1), 1, rtol=1e-5)


def test_a_stored_patch_finds_itself_unless_it_is_left_out(run):
    there = run.emitted["there"]
    own = np.arange(there.sum())[:, None]
    found, others = ([x[there] for x in each] for each in run.seen["train"])
    _, residual, number = found
    np.testing.assert_array_equal(number[:, :1], own)
    # Not all are rebuilt whole: the pursuit may prefer three longer codes.
    assert np.median(residual) < 1e-5
    _, residual, number = others
    assert (number != own).all() and residual.min() > 1e-2


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
    found = jax.jit(partial(lowest_at_pixels, size=(2, 2)))(patches, values)
    np.testing.assert_allclose(found[0, ..., 0], [[0.4, 0.2], [0, 0]])


def test_queries_are_drawn_as_the_twenty_stored_sets_are():
    grid = np.stack(np.meshgrid(*[np.arange(8.0)] * 2, [0.0]), -1).reshape(-1, 3)
    points = jnp.float32(np.broadcast_to(grid, (4, 64, 3)))
    there = jnp.array([True, True, True, False])
    keys = jax.random.split(jax.random.key(0), 400)
    draw = jax.jit(jax.vmap(lambda key: distances.around(1, key, points, there)))
    drawn = jax.device_get(draw(keys))
    query, target = drawn.query[:, 0], drawn.target[:, 0]
    # The stored form: the distance of the last of 51 neighbours, itself among them.
    tree = cKDTree(grid)
    spread = tree.query(grid, 51)[0][:, -1]
    wide = ((query - grid[None]) / spread[None, :, None]).std((1, 2))
    near = wide < 0.75
    assert 0.57 < near.mean() < 0.73  # 13 of 20 sets
    np.testing.assert_allclose(wide[near].mean(), 0.5, rtol=0.02)
    np.testing.assert_allclose(wide[~near].mean(), 1.0, rtol=0.02)
    nearest = tree.query(query.reshape(-1, 3))[1]
    np.testing.assert_array_equal(target.reshape(-1, 3), np.float32(grid)[nearest])


def test_patches_of_a_step_are_of_the_first_half():
    random = np.random.default_rng(0).uniform(0, 1e-3, (10, 5, 3))
    points = jnp.float32(np.arange(10)[:, None, None] + random)
    there = jnp.arange(10) < 7
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
    extras = {**run.test.extras, "patches": 0 * run.test.extras["patches"]}
    nothing = run.test._replace(extras=extras)
    scores = jax.jit(run.system.score)(jax.random.key(0), run.state, nothing)
    assert not np.asarray(any_patch(nothing)).any()
    assert not np.asarray(scores.image).any() and np.isfinite(scores.map).all()


def test_a_class_without_patches_is_an_error(run):
    rows = {"there": np.zeros((3, 4), bool), "codes": np.zeros((3, 4, 128))}
    with pytest.raises(ValueError, match="more than 10 patches in 3 .* found 0"):
        run.system.phases[1].absorb(jax.random.key(0), run.state, rows)


def test_a_training_sample_without_patches_leaves_no_rows(run):
    rows = {name: x.copy() for name, x in run.emitted.items()}
    rows["there"][1] = rows["cover"][1] = False
    memory = run.system.phases[1].absorb(jax.random.key(0), run.state, rows).memory
    kept = run.emitted["there"][[0, 2]].sum(1)
    np.testing.assert_array_equal(memory["sample"], np.repeat([0, 2], kept))
    assert len(memory["codes"].rows) == len(memory["cover"]) == kept.sum()
    assert set(np.unique(memory["origin"] // 28**2)) == {0, 2}


def test_patches_beside_too_few_cells_are_an_error(run):
    rows = {**run.emitted, "cover": run.emitted["cover"] & (np.arange(784) == 300)}
    with pytest.raises(ValueError, match="more than 5 cells .* found 3: model.rgb_nei"):
        run.system.phases[1].absorb(jax.random.key(0), run.state, rows)


@pytest.mark.parametrize("name", ["codes", "rgb"])
def test_rows_that_are_not_finite_are_counted(run, name):
    rows = {**run.emitted, name: run.emitted[name].copy()}
    place = np.argwhere(rows["there" if name == "codes" else "cover"])[0]
    rows[name][place[0], place[-1]] = np.nan
    with pytest.raises(ValueError, match="expected finite rows, found 1 of"):
        run.system.phases[1].absorb(jax.random.key(0), run.state, rows)


def test_where_fewer_cells_may_be_found_there_are_fewer_atoms():
    bank = knn.build(np.float32([(1, 0), (0, 1), (1, 1)]))
    allowed = np.array([(False, True, False), (False, False, False)])
    queries = np.float32([[(2, 3)], [(3, 4)]])
    found = jax.jit(lambda q, a: memories.rebuild(CONFIG, bank, q, 3, False, a))
    rebuilt, residual, number = found(queries, allowed)
    np.testing.assert_allclose(rebuilt, [[(0, 3)], [(0, 0)]], atol=1e-6)
    np.testing.assert_allclose(residual, [[2], [5]], rtol=1e-6)
    np.testing.assert_array_equal(number, [[(1, -1, -1)], [(-1, -1, -1)]])


def test_samples_are_aligned_by_their_ids(run):
    memory = {**run.state.memory, "aligned": np.array([False, True, True])}
    state, weigh = run.state._replace(memory=memory), run.system.phases[2].weigh
    np.testing.assert_array_equal(weigh(state, run.train), [0, 1, 1])
    np.testing.assert_array_equal(weigh(state, run.test), [1, 1])  # not in memory


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


def test_cells_that_do_not_divide_the_image_are_refused():
    with pytest.raises(ValueError, match="multiple of 28, found 50 x 50"):
        cover(jax.eval_shape(cut, samples()), (50, 50), 28)


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
