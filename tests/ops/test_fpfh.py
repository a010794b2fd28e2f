import jax
import jax.numpy as jnp
import libraries
import numpy as np
import pytest
from made_up_clouds import bumpy_cloud, holes

from ad3d_jax.ops import fpfh as module
from ad3d_jax.ops import points
from ad3d_jax.testing.float64 import widened

fpfh = jax.jit(module.fpfh, static_argnames="reach")


def open3d_fpfh(xyz, normals=None):
    """Open3D's descriptors [N,33] of points [N,3], on its own or on given normals."""
    o3d = libraries.open3d()
    search = o3d.geometry.KDTreeSearchParamHybrid
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.float64(xyz)))
    if normals is None:
        cloud.estimate_normals(search(0.10, 30))
    else:
        cloud.normals = o3d.utility.Vector3dVector(np.float64(normals))
    features = o3d.pipelines.registration.compute_fpfh_feature(cloud, search(0.25, 100))
    return features.data.T


@pytest.mark.parametrize("rough", [0.0, 0.3, 3.0])
def test_histograms_are_open3ds_on_the_same_normals_and_neighbours(rough, parity):
    xyz, valid = bumpy_cloud(0, 13, 18), holes(1, 13, 18)
    normals = np.asarray(points.normals(xyz[None], valid[None, ..., None])[0])
    # Rough normals point anywhere, so that every bin of every feature is met.
    normals = normals + rough * np.random.default_rng(2).standard_normal(normals.shape)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    normals = normals.astype("f4")
    # In float64, as Open3D: a pair on the edge of a bin could fall on its other side.
    in_float64 = widened(lambda *inputs: fpfh(*inputs[:3], reach=16))
    with jax.enable_x64(True):
        inputs = (np.float64(xyz[None]), valid[None, ..., None])
        inputs += (np.float64(normals[None]),)
        ours = np.asarray(in_float64(*inputs, None)[0])
    theirs = open3d_fpfh(xyz[valid], normals[valid])
    assert rough < 3 or np.all(theirs.max(0) > 0)
    np.testing.assert_allclose(ours[valid], theirs, atol=1e-6)
    what = "FPFH on the same normals, float64"
    parity("BTF", libraries.open3d(), what, ours[valid], theirs)
    assert not np.any(ours[~valid])


def test_end_to_end_on_a_small_cloud(parity):
    xyz, valid = bumpy_cloud(3, 13, 18), holes(4, 13, 18)
    ours = np.asarray(fpfh(xyz[None], valid[None, ..., None], reach=16)[0])[valid]
    # Normals search 6 pixels around their tile, here the whole image but its corners.
    theirs = open3d_fpfh(xyz[valid])
    difference = np.abs(ours - theirs)
    assert np.mean(difference) < 0.02 and np.max(difference) < 3
    parity("BTF", libraries.open3d(), "FPFH with its normals", ours, theirs)


def test_every_group_sums_to_200():
    xyz, valid = bumpy_cloud(5, 13, 18), holes(6, 13, 18)
    ours = np.asarray(fpfh(xyz[None], valid[None, ..., None])[0])[valid]
    groups = ours.reshape(-1, 3, 11)
    np.testing.assert_allclose(groups.sum(-1), 200, rtol=1e-5)
    assert np.min(groups) >= 0


def test_points_in_one_place_count_as_pairs_without_features():
    xyz, valid = bumpy_cloud(7, 13, 18), holes(8, 13, 18)
    xyz[2, 3] = xyz[2, 4]
    valid[2, 3:5] = True
    valid[6:] = False  # fewer than 100 are left: two in one place tie for no last place
    normals = np.random.default_rng(8).standard_normal(xyz.shape)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals = normals.astype("f4")
    ours = fpfh(xyz[None], valid[None, ..., None], normals[None], reach=16)[0]
    theirs = open3d_fpfh(xyz[valid], normals[valid])
    np.testing.assert_allclose(ours[valid], theirs, atol=2e-2)


def test_a_lonely_point_and_an_empty_cloud_have_no_histogram():
    xyz = np.stack([bumpy_cloud(9, 13, 18)] * 2)
    valid = np.zeros((2, 13, 18, 1), bool)
    valid[0, 4, 4] = True
    np.testing.assert_array_equal(fpfh(np.where(valid, xyz, np.nan), valid), 0)


def test_clouds_do_not_touch_each_other():
    xyz = np.stack([bumpy_cloud(seed, 13, 18) for seed in (10, 11)])
    valid = np.stack([holes(seed, 13, 18) for seed in (12, 13)])[..., None]
    together = fpfh(xyz, valid)
    alone = fpfh(xyz[1:], valid[1:])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-3)


def test_wrong_shapes_are_named():
    xyz, valid = np.ones((1, 8, 8, 3), "f4"), np.ones((1, 8, 8, 1), bool)
    with pytest.raises(ValueError, match=r"normals: expected \(1, 8, 8, 3\)"):
        fpfh(xyz, valid, np.ones((1, 8, 8, 1), "f4"))


def test_lowers_for_every_platform():
    xyz = jax.ShapeDtypeStruct((2, 40, 24, 3), jnp.float32)
    valid = jax.ShapeDtypeStruct((2, 40, 24, 1), jnp.bool_)
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(fpfh, platforms=platforms)
    assert exported(xyz, valid).platforms == platforms


@pytest.fixture(scope="module")
def real_cloud(real_class):
    """A real cloud [224,224,3] and which of its points are measured."""
    tifffile = pytest.importorskip("tifffile")
    path = sorted((real_class / "test" / "hole" / "xyz").glob("*.tiff"))[0]
    xyz = np.float32(tifffile.imread(path))
    nearest = np.arange(224) * len(xyz) // 224
    xyz = xyz[nearest][:, nearest]
    return xyz, np.all(xyz != 0, -1)


def cosine(a, b):
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.sum(a * b, -1) / lengths


@pytest.mark.slow
def test_real_clouds_have_open3ds_descriptors(real_cloud):
    xyz, valid = real_cloud
    ours = np.asarray(fpfh(xyz[None], valid[None, ..., None])[0])[valid]
    theirs = open3d_fpfh(xyz[valid])
    similar = cosine(ours, theirs)
    assert np.mean(similar > 0.99) > 0.995 and np.mean(similar) > 0.999
    assert np.mean(np.abs(ours - theirs)) < 0.1
    np.testing.assert_allclose(ours.reshape(-1, 3, 11).sum(-1), 200, rtol=1e-5)


@pytest.mark.slow
def test_on_open3ds_histograms_our_normals_are_as_good_as_its_own(real_cloud):
    xyz, valid = real_cloud
    normals = np.asarray(points.normals(xyz[None], valid[None, ..., None])[0])[valid]
    similar = cosine(open3d_fpfh(xyz[valid], normals), open3d_fpfh(xyz[valid]))
    assert np.mean(similar > 0.99) > 0.998
