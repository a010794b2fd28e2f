import jax
import jax.numpy as jnp
import libraries
import numpy as np
import pytest
from made_up_clouds import bumpy_cloud, holes

from ad3d_jax.ops import points

normals = jax.jit(points.normals, static_argnames=("radius", "reach"))


def open3d_cloud(xyz):
    o3d = libraries.open3d()
    return o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.float64(xyz)))


def open3d_normals(xyz, radius=0.1):
    o3d = libraries.open3d()
    cloud = open3d_cloud(xyz)
    cloud.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(radius, 30))
    return np.asarray(cloud.normals)


def test_normals_and_signs_are_open3ds_where_all_neighbours_are_candidates(parity):
    xyz, valid = bumpy_cloud(0, 13, 18), holes(1, 13, 18)
    ours = normals(xyz[None], valid[None, ..., None], reach=16)[0]
    theirs = open3d_normals(xyz[valid])
    np.testing.assert_allclose(ours[valid], theirs, atol=2e-4)
    parity("point clouds", libraries.open3d(), "normals", ours[valid], theirs)
    assert not np.any(ours[~valid])


def test_a_small_radius_leaves_fewer_neighbours():
    xyz, valid = bumpy_cloud(2, 13, 18), np.ones((13, 18), bool)
    ours = normals(xyz[None], valid[None, ..., None], radius=2.5e-3)[0]
    theirs = open3d_normals(xyz[valid], 2.5e-3)
    np.testing.assert_allclose(ours[valid], theirs, atol=1e-3)


def test_without_three_points_the_normal_is_the_optical_axis():
    xyz, valid = bumpy_cloud(3, 9, 9), np.zeros((9, 9), bool)
    valid[0, 0] = valid[8, 7] = valid[8, 8] = True
    ours = normals(xyz[None], valid[None, ..., None], radius=2e-3)[0]
    np.testing.assert_array_equal(ours[valid], [[0, 0, 1]] * 3)
    np.testing.assert_array_equal(open3d_normals(xyz[valid], 2e-3), [[0, 0, 1]] * 3)


def test_clouds_do_not_touch_each_other_and_gaps_may_hold_nan():
    xyz = np.stack([bumpy_cloud(seed, 13, 18) for seed in (4, 5)])
    valid = np.stack([holes(seed, 13, 18) for seed in (6, 7)])[..., None]
    together = normals(xyz, valid)
    gaps = np.where(valid, xyz, np.nan)
    for i in range(2):
        alone = normals(gaps[i : i + 1], valid[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_least_axis_is_the_last_of_numpys_eigenvectors(scale):
    random = np.random.default_rng(10)
    half = random.standard_normal((500, 3, 3)) * random.uniform(0.05, 1, (500, 1, 3))
    square = scale * half @ half.swapaxes(1, 2)
    packed = square[:, *np.triu_indices(3)].astype("f4")
    axis = np.asarray(points.least_axis(packed))
    values, vectors = np.linalg.eigh(square)
    apart = values[:, 1] - values[:, 0] > 0.01 * values[:, 2]
    cosine = np.abs(np.sum(axis * vectors[:, :, 0], -1))[apart]
    assert apart.sum() > 400
    np.testing.assert_allclose(cosine, 1, atol=1e-5)


def test_least_axis_of_degenerate_neighbourhoods_is_a_unit_vector():
    line = np.outer([1, 2, -1], [1, 2, -1])[np.triu_indices(3)]
    packed = np.float32([np.zeros(6), [2, 0, 0, 2, 0, 2], line, [1, 0, 0, 1, 0, 0]])
    axis = np.asarray(points.least_axis(packed))
    np.testing.assert_allclose(np.linalg.norm(axis, axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(axis[:2], [[0, 0, 1]] * 2)
    np.testing.assert_allclose(axis[2] @ [1, 2, -1], 0, atol=1e-5)
    np.testing.assert_allclose(axis[3], [0, 0, 1], atol=1e-6)


def test_nearest_limit_lies_between_the_last_neighbour_and_the_next():
    squared = np.random.default_rng(11).lognormal(-12, 3, (300, 40)).astype("f4")
    squared[100:, 0] = 1.0
    limit = np.asarray(points.nearest_limit(squared, 120, 0.5))
    inside = np.sum(squared <= limit, 0)
    expected = np.minimum(120, np.sum(squared <= 0.25, 0))
    np.testing.assert_array_equal(inside, expected)
    assert expected[0] == 100 and limit[0] == 0.25


def test_tiles_see_their_own_points_and_a_ring_around_them():
    image = np.arange(2 * 10 * 13, dtype="f4").reshape(2, 10, 13, 1)

    def smallest_around(own, others):
        return jnp.stack([own[0], jnp.broadcast_to(jnp.min(others), own[0].shape)])

    ours = np.asarray(points.map_tiles(smallest_around, image, image, 2))
    np.testing.assert_array_equal(ours[..., :1], image)
    for rows, top in ((slice(0, 8), 0), (slice(8, 10), 6)):
        for columns, left in ((slice(0, 8), 0), (slice(8, 13), 6)):
            corner = np.broadcast_to(image[:, top, left, :, None], (2, 1, 1))
            found = ours[:, rows, columns, 1].reshape(2, -1, 1)
            np.testing.assert_array_equal(found, np.broadcast_to(corner, found.shape))


def test_wrong_shapes_are_named():
    xyz = np.ones((1, 8, 8, 3), "f4")
    with pytest.raises(ValueError, match=r"valid: expected \(1, 8, 8, 1\)"):
        normals(xyz, np.ones((1, 8, 8), bool))
    with pytest.raises(ValueError, match=r"xyz: expected \[B,H,W,3\]"):
        normals(xyz[..., :2], np.ones((1, 8, 8, 1), bool))


def test_lowers_for_every_platform():
    xyz = jax.ShapeDtypeStruct((2, 40, 24, 3), jnp.float32)
    valid = jax.ShapeDtypeStruct((2, 40, 24, 1), jnp.bool_)
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(points.normals), platforms=platforms)
    assert exported(xyz, valid).platforms == platforms
