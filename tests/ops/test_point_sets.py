"""Centres, groups and interpolation against their definitions, written out."""

import jax
import jax.numpy as jnp
import libraries
import numpy as np
import pytest
from made_up_clouds import bumpy_cloud, holes

from ad3d_jax.ops.point_sets import (
    LEAST_SQUARED_NORM,
    farthest_points,
    interpolation,
    nearest_points,
    random_start,
)

farthest = jax.jit(farthest_points, static_argnames=("count", "least_squared_norm"))
nearest = jax.jit(nearest_points, static_argnames="count")
interpolate = jax.jit(interpolation)

LATTICE = np.float32(np.stack(np.meshgrid(*[range(5)] * 3), -1).reshape(-1, 3))


def small_cloud(seed):
    """Points [N,3] and which are valid [N], some within 32 mm of the origin."""
    xyz = bumpy_cloud(seed, 9, 11).reshape(-1, 3) * np.float32(20)
    xyz[:, 2] -= xyz[:, 2].mean()
    return xyz - np.float32([0.3, 0.48, 0]), holes(seed + 1, 9, 11).reshape(-1)


def literal_farthest(xyz, count, start=0, least=-1.0):
    """The indices of points [N,3], one by one; ties go to the lowest."""
    distance = np.full(len(xyz), np.inf)
    chosen = [start]
    while len(chosen) < count:
        best, place = -1.0, 0
        for i, point in enumerate(xyz):
            if (point**2).sum() <= least:
                continue
            distance[i] = min(distance[i], ((point - xyz[chosen[-1]]) ** 2).sum())
            if distance[i] > best:
                best, place = distance[i], i
        chosen.append(place)
    return chosen


# --- Farthest points ------------------------------------------------------------------


@pytest.mark.parametrize("least", [-1.0, LEAST_SQUARED_NORM])
@pytest.mark.parametrize("start", [None, 7])
def test_centres_are_those_of_the_loop(start, least):
    xyz, valid = small_cloud(0)
    near = np.sum(xyz[valid] ** 2, 1) <= LEAST_SQUARED_NORM
    assert 3 < near.sum() < valid.sum() - 40
    places = np.flatnonzero(valid)
    count = int(valid.sum() - near.sum())
    ours = farthest(
        np.where(valid[:, None], xyz, np.nan),
        valid,
        count=count,
        start=None if start is None else places[start].astype("i4"),
        least_squared_norm=least,
    )
    theirs = literal_farthest(xyz[valid], count, start or 0, least)
    np.testing.assert_array_equal(ours.index, places[theirs])
    np.testing.assert_array_equal(ours.xyz, xyz[valid][theirs])
    assert ours.found.all() and ours.index.dtype == jnp.int32


def test_equally_far_points_and_repeats_go_to_the_lowest():
    ours = farthest(LATTICE, np.ones(125, bool), count=40)
    np.testing.assert_array_equal(ours.index, literal_farthest(LATTICE, 40))
    few = np.zeros(125, bool)
    few[[3, 60, 61]] = True
    ours = farthest(LATTICE, few, count=5, least_squared_norm=1.0)
    theirs = literal_farthest(LATTICE[few], 5, least=1.0)
    np.testing.assert_array_equal(ours.index, np.flatnonzero(few)[theirs])
    assert sorted(set(np.asarray(ours.index))) == [3, 60, 61]


def test_without_any_point_that_may_be_chosen():
    xyz, valid = small_cloud(2)
    ours = farthest(xyz, valid, count=4, least_squared_norm=1e6)
    np.testing.assert_array_equal(ours.index, [np.flatnonzero(valid)[0]] * 4)
    none = farthest(xyz * np.nan, np.zeros_like(valid), count=4)
    assert not (none.found.any() or none.xyz.any() or none.index.any())


def test_clouds_of_a_batch_do_not_touch_each_other():
    clouds = [small_cloud(seed) for seed in (3, 4)]
    xyz, valid = map(np.stack, zip(*clouds, strict=True))
    together = jax.jit(jax.vmap(lambda *cloud: farthest_points(*cloud, 9)))(xyz, valid)
    for i, cloud in enumerate(clouds):
        np.testing.assert_array_equal(together.index[i], farthest(*cloud, 9).index)


def test_centres_are_open3ds(parity):
    xyz, valid = small_cloud(5)
    o3d = libraries.open3d()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz[valid]))
    theirs = np.asarray(cloud.farthest_point_down_sample(30).points)
    ours = farthest(xyz, valid, 30).xyz
    ours, theirs = np.sort(ours, 0), np.sort(theirs.astype("f4"), 0)
    np.testing.assert_array_equal(ours, theirs)
    parity("point clouds", o3d, "farthest points", ours, theirs)


def test_random_starts_are_all_valid_points_equally_often():
    valid = np.array([False, True, False, True, True])
    keys = jax.random.split(jax.random.key(0), 3000)
    starts = jax.jit(jax.vmap(random_start, (0, None)))(keys, valid)
    counts = np.bincount(starts, minlength=5)
    assert not counts[~valid].any()
    np.testing.assert_allclose(counts[valid], 1000, atol=120)  # 4.6 standard deviations
    assert random_start(keys[0], np.zeros(5, bool)) == 0


# --- Groups ---------------------------------------------------------------------------


def literal_nearest(xyz, centres, count):
    squared = ((np.float64(xyz)[None] - np.float64(centres)[:, None]) ** 2).sum(-1)
    return np.argsort(squared, axis=1, kind="stable")[:, :count]


def test_groups_are_the_nearest_points_in_order():
    xyz, valid = small_cloud(6)
    centres = np.concatenate([xyz[valid][:5], xyz[:4] + 0.01])
    ours = nearest(np.where(valid[:, None], xyz, np.nan), valid, centres, count=12)
    theirs = literal_nearest(xyz[valid], centres, 12)
    np.testing.assert_array_equal(ours, np.flatnonzero(valid)[theirs])
    assert ours.dtype == jnp.int32


def test_of_equally_near_points_the_lowest_come_first():
    ours = nearest(LATTICE, np.ones(125, bool), LATTICE[50:70], count=20)
    np.testing.assert_array_equal(ours, literal_nearest(LATTICE, LATTICE[50:70], 20))


def test_the_nearest_point_stands_for_those_that_are_missing():
    few = np.zeros(125, bool)
    few[[10, 90, 91]] = True
    ours = nearest(LATTICE, few, LATTICE[[10, 91]], count=5)
    np.testing.assert_array_equal(ours, [[10, 90, 91, 10, 10], [91, 90, 10, 91, 91]])
    assert not nearest(LATTICE, few & False, LATTICE[:2], count=5).any()


# --- Interpolation --------------------------------------------------------------------


def test_weights_are_those_of_the_sheet():
    centres = np.float32([[0, 0, 0], [1, 0, 0], [0, 2, 0]])
    points = np.float32([[0.5, 0, 0], [0, 2, 0], [9, 9, 9]])
    ours = interpolate(points, np.array([True, True, False]), centres)
    # Shares of 4, 4 and 1 / 4.25; a centre in its own place; no point.
    expected = [[0.485714, 0.485714, 0.028571], [1, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(ours.weight, expected, atol=1e-6)
    np.testing.assert_array_equal(ours.index[:2], [[0, 1, 2], [2, 0, 1]])


def test_the_three_nearest_of_many_centres():
    xyz, valid = small_cloud(8)
    centres = xyz[valid][::4]
    ours = interpolate(np.where(valid[:, None], xyz, np.nan), valid, centres)
    squared = ((np.float64(xyz)[:, None] - np.float64(centres)[None]) ** 2).sum(-1)
    index = np.argsort(squared, axis=1, kind="stable")[:, :3]
    inverse = 1 / (np.take_along_axis(squared, index, 1) + 1e-8)
    weight = inverse / inverse.sum(1, keepdims=True)
    np.testing.assert_array_equal(ours.index[valid], index[valid])
    np.testing.assert_allclose(ours.weight[valid], weight[valid], rtol=1e-5, atol=1e-9)
    assert not ours.weight[~valid].any()


def test_centres_that_are_not_there_weigh_nothing():
    xyz, valid = small_cloud(9)
    centres, found = xyz[:6] * np.nan, np.zeros(6, bool)
    assert not interpolate(xyz, valid, centres, found).weight.any()
    centres[1], found[1] = xyz[1], True
    ours = interpolate(xyz, valid, centres, found)
    assert (ours.index[valid, 0] == 1).all()
    expected = valid[:, None] * np.float32([[1, 0, 0]])
    np.testing.assert_allclose(ours.weight, expected, rtol=1e-6)


# --- Mistakes and platforms -----------------------------------------------------------


def test_wrong_inputs_are_named():
    xyz, valid = LATTICE, np.ones(125, bool)
    with pytest.raises(ValueError, match=r"valid: expected \(125,\)"):
        farthest_points(xyz, valid[:9], 3)
    with pytest.raises(ValueError, match=r"xyz: expected \[N,3\]"):
        nearest_points(xyz[:, :2], valid, xyz, 3)
    with pytest.raises(ValueError, match="at least 1 centre, found 0"):
        farthest_points(xyz, valid, 0)
    with pytest.raises(ValueError, match="expected 1 to 125 points, found 126"):
        nearest_points(xyz, valid, xyz, 126)
    with pytest.raises(ValueError, match="centres: expected 3 or more, found 2"):
        interpolation(xyz, valid, xyz[:2])


def test_lowers_for_every_platform():
    def chain(xyz, valid):
        centres = farthest_points(xyz, valid, 16)
        groups = nearest_points(xyz, valid, centres.xyz, 8)
        return groups, interpolation(xyz, valid, centres.xyz, centres.found)

    xyz = jax.ShapeDtypeStruct((2, 200, 3), jnp.float32)
    valid = jax.ShapeDtypeStruct((2, 200), jnp.bool_)
    platforms = ("cpu", "cuda", "tpu")
    with jax.numpy_dtype_promotion("strict"):
        exported = jax.export.export(jax.jit(jax.vmap(chain)), platforms=platforms)
        assert exported(xyz, valid).platforms == platforms
