"""Planes, clusters and FPFH against Open3D, scikit-learn and shapes that are known."""

import builtins

import libraries
import numpy as np
import pytest
import sklearn
from sklearn.cluster import DBSCAN

from data_pipelines import geometry
from data_pipelines.errors import DatasetError


def tilted(count: int, outliers: int, seed: int = 0, noise: float = 5e-4):
    """Returns points on z = 0.6 + 0.1 x - 0.2 y with noise, the last ones above it."""
    random = np.random.default_rng(seed)
    x, y = random.uniform(-0.05, 0.05, (2, count))
    z = 0.6 + 0.1 * x - 0.2 * y + random.normal(0, noise, count)
    z[count - outliers :] -= random.uniform(0.006, 0.03, outliers)
    return np.stack([x, y, z], -1)


TRUE = np.array([-0.1, 0.2, 1.0]) / np.sqrt(1.05)


@pytest.mark.parametrize("outliers", [0, 500])
def test_plane_is_the_true_one(outliers):
    plane = geometry.fit_plane(tilted(6000, outliers))
    np.testing.assert_allclose(plane.normal, TRUE, atol=1e-3)
    np.testing.assert_allclose(plane.offset, -0.6 / np.sqrt(1.05), atol=1e-4)
    # Least squares over everything would be pulled to the outliers.
    points = tilted(6000, outliers)
    pulled = np.linalg.svd(points - points.mean(0), full_matrices=False)[2][2]
    assert outliers == 0 or np.abs(pulled * np.sign(pulled[2]) - TRUE).max() > 2e-3


def test_plane_is_open3ds(parity):
    open3d = libraries.open3d()
    points = tilted(6000, 500)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    open3d.utility.random.seed(0)
    (*normal, offset), inliers = cloud.segment_plane(0.004, 50, 1000)
    plane = geometry.fit_plane(points)
    sign = np.sign(normal[2])
    np.testing.assert_allclose(plane.normal, sign * np.array(normal), atol=2e-3)
    theirs = sign * np.array(normal)
    parity("point clouds", open3d, "plane by RANSAC, normal", plane.normal, theirs)
    assert abs(plane.offset - sign * offset) < 2e-4
    ours = np.flatnonzero(plane.distance(points) < 0.004)
    assert len(set(ours) ^ set(inliers)) < 0.01 * len(points)


def test_plane_depends_on_the_seed_alone():
    points = tilted(12_000, 2000)
    one, same, other = (
        geometry.fit_plane(points, at_most=1000, hypotheses=50, seed=seed)
        for seed in (3, 3, 4)
    )
    assert (one.normal == same.normal).all() and one.offset == same.offset
    assert (one.normal != other.normal).any()
    np.testing.assert_allclose(one.normal, TRUE, atol=0.02)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 3)),
        np.ones((2, 3)),
        np.ones((100, 3)),
        np.outer(np.linspace(0, 0.1, 60), [1, 2, 3]),
    ],
    ids=["none", "two", "one place", "a line"],
)
def test_points_that_span_no_plane(points):
    assert geometry.fit_plane(points) is None


def partition(labels: np.ndarray) -> set[frozenset]:
    return {frozenset(np.flatnonzero(labels == k)) for k in set(labels) - {-1}}


@pytest.mark.parametrize("min_points", [1, 4, 8])
def test_clusters_of_core_points_are_scikit_learns(min_points, parity):
    random = np.random.default_rng(min_points)
    points = random.random((2500, 3)) * [0.1, 0.1, 0.02]
    labels = geometry.cluster(points, 0.004, min_points)
    oracle = DBSCAN(eps=0.004, min_samples=min_points).fit(points)
    core = np.zeros(len(points), bool)
    core[oracle.core_sample_indices_] = True
    assert partition(labels[core]) == partition(oracle.labels_[core])
    np.testing.assert_array_equal(labels == -1, oracle.labels_ == -1)
    noise = labels == -1, oracle.labels_ == -1
    parity("point clouds", sklearn, "DBSCAN, points of no cluster", *noise)
    # Only border points between two clusters may differ.
    assert labels.max() > 3 and labels.dtype == np.int32


def test_two_dense_blobs_a_bridge_and_noise():
    random = np.random.default_rng(0)
    blob = random.uniform(-0.01, 0.01, (3000, 3))
    far = blob[:1000] + [0.05, 0, 0]
    noise = np.array([[0.2, 0, 0], [0, 0.2, 0]])
    labels = geometry.cluster(np.concatenate([far, blob, noise]))
    assert labels.tolist() == [0] * 1000 + [1] * 3000 + [-1, -1]
    bridge = np.linspace([0.01, 0, 0], [0.04, 0, 0], 300)
    joined = geometry.cluster(np.concatenate([far, blob, bridge]))
    assert set(joined) == {0}
    assert geometry.cluster(np.zeros((0, 3))).shape == (0,)
    assert geometry.cluster(noise).tolist() == [-1, -1]


def test_fpfh_groups_sum_to_200():
    libraries.open3d()
    points = tilted(800, 100)
    histograms = geometry.normals_and_fpfh(points)
    assert histograms.shape == (800, 33)
    sums = histograms.reshape(800, 3, 11).sum(-1)
    np.testing.assert_allclose(sums, 200, rtol=1e-6)
    again = geometry.normals_and_fpfh(points)
    np.testing.assert_array_equal(histograms, again)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fpfh_of_hardly_any_point(count):
    libraries.open3d()
    histograms = geometry.normals_and_fpfh(np.arange(3.0 * count).reshape(count, 3))
    assert histograms.shape == (count, 33) and np.isfinite(histograms).all()


@pytest.mark.parametrize(
    "reason", [ModuleNotFoundError("No module named 'open3d'"), OSError("libGL.so.1")]
)
def test_absent_open3d_is_one_sentence(monkeypatch, reason):
    real = builtins.__import__

    def absent(name, *rest):
        if name == "open3d":
            raise reason
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DatasetError) as error:
        geometry.normals_and_fpfh(np.zeros((3, 3)))
    text = str(error.value)
    assert "pip install open3d" in text and "libusb-1.0-0" in text
    assert str(reason) in text
