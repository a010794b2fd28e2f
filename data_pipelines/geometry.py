"""Geometry of point clouds: planes, clusters, normals and FPFH.

The one file that uses Open3D, for FPFH alone, and only when that is asked for.
"""

from types import ModuleType
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from data_pipelines.errors import DatasetError

FPFH_SIZE = 33
POINTS_AT_A_TIME = 2**16  # of which normals are made; the neighbours of each take 720 B


class Plane(NamedTuple):
    """The points p with normal . p + offset = 0; the normal has length 1, n_z >= 0."""

    normal: np.ndarray  # [3] float64
    offset: float  # metres

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Returns the distance [...] of points [...,3] from the plane, metres, >= 0."""
        return np.abs(points.astype(np.float64, copy=False) @ self.normal + self.offset)


def fit_plane(
    points: np.ndarray,
    inlier_distance: float = 0.004,
    points_per_hypothesis: int = 50,
    hypotheses: int = 1000,
    at_most: int = 10_000,
    seed: int = 0,
) -> Plane | None:
    """Fits a plane by RANSAC (Fischler and Bolles, 1981), equal for an equal seed.

    Each hypothesis is the least-squares plane of randomly drawn points; the one with
    the most inliers, the first of equals, is fitted again to all of its inliers.
    Open3D's version stops early in several threads at once, so that its result varies
    from call to call even where it is seeded.

    Args:
        points: [N,3] metres.
        inlier_distance: metres; nearer points support a hypothesis.
        points_per_hypothesis: points drawn for each, with replacement.
        hypotheses: how many.
        at_most: hypotheses are drawn from and tried on a random choice of so many
            points; the last fit takes inliers among all points.
        seed: of the draws.

    Returns:
        The plane, or None where no three points span one.
    """
    points = np.asarray(points, np.float64)
    if len(points) < 3:
        return None
    random = np.random.default_rng(seed)
    tried = points
    if len(points) > at_most:
        tried = points[np.sort(random.choice(len(points), at_most, replace=False))]
    drawn = random.integers(0, len(tried), (hypotheses, points_per_hypothesis))
    normals, offsets = _least_squares(tried[drawn])
    planes = [Plane(n, d) for n, d in zip(normals, offsets, strict=True)]
    support = [(p.distance(tried) < inlier_distance).sum() for p in planes]
    near = planes[int(np.argmax(support))].distance(points) < inlier_distance
    inliers = points[near]
    if len(inliers) < 3 or _spread(inliers) < 2:
        return None
    normals, offsets = _least_squares(inliers[None])
    return Plane(normals[0], float(offsets[0]))


def _least_squares(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns normals [K,3] and offsets [K] of the planes of K clouds [K,n,3]."""
    centre = points.mean(1)
    centred = points - centre[:, None]
    normals = np.linalg.eigh(np.einsum("kni,knj->kij", centred, centred))[1][:, :, 0]
    normals = normals * np.where(normals[:, 2:] < 0, -1, 1)
    return normals, -(normals * centre).sum(1)


def _spread(points: np.ndarray) -> int:
    """Returns along how many axes, 0 to 3, a cloud is wider than 0.1 um."""
    return int(np.linalg.matrix_rank(points - points.mean(0), tol=1e-7))


def cluster(
    points: np.ndarray, radius: float = 0.006, min_points: int = 30
) -> np.ndarray:
    """Labels points by DBSCAN (Ester et al., KDD 1996).

    The clusters are exactly DBSCAN's, found by cells so narrow that all points of one
    are neighbours (Gunawan, 2013): on the dense clouds of a scan, lists of neighbours
    take gigabytes. A border point joins the cluster of its nearest core point, where
    Open3D's and scikit-learn's order decides.

    Args:
        points: [N,3] metres.
        radius: metres within which points are neighbours.
        min_points: neighbours, itself counted, that make a point a core point.

    Returns:
        [N] int32 labels from 0 on, in the order of each cluster's first core point; -1
        is noise.
    """
    points = np.asarray(points, np.float64)
    labels = np.full(len(points), -1, np.int32)
    if not len(points):
        return labels
    cells = np.floor(points / (radius / np.sqrt(3) * (1 - 1e-9))).astype(np.int64)
    cells, cell, count = np.unique(
        cells, axis=0, return_inverse=True, return_counts=True
    )
    cell = cell.reshape(-1)
    core = count[cell] >= min_points
    thin = np.flatnonzero(~core)
    neighbours = cKDTree(points).query_ball_point(
        points[thin], radius, return_length=True
    )
    core[thin] = neighbours >= min_points
    if not core.any():
        return labels
    joined = _joined(points[core], cell[core], cells, radius)
    first = np.unique(joined[cell[core]], return_index=True)
    number = np.empty(len(cells), np.int32)
    number[first[0][np.argsort(first[1])]] = np.arange(len(first[0]))
    labels[core] = number[joined[cell[core]]]
    rest = np.flatnonzero(~core)
    distance, nearest = cKDTree(points[core]).query(points[rest])
    border = distance <= radius
    labels[rest[border]] = labels[core][nearest[border]]
    return labels


def _joined(
    points: np.ndarray, cell: np.ndarray, cells: np.ndarray, radius: float
) -> np.ndarray:
    """Returns for each cell [C] the cell that stands for its cluster of core points."""
    parent = np.arange(len(cells))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = k = parent[parent[k]]
        return k

    order = np.argsort(cell, kind="stable")
    used, start = np.unique(cell[order], return_index=True)
    trees = {
        k: cKDTree(part)
        for k, part in zip(used, np.split(points[order], start[1:]), strict=True)
    }
    # Points within the radius lie at most two cells apart along each axis.
    pairs = used[cKDTree(cells[used]).query_pairs(2, p=np.inf, output_type="ndarray")]
    gaps = np.abs(cells[pairs[:, 0]] - cells[pairs[:, 1]]).sum(1)
    for a, b in pairs[np.argsort(gaps, kind="stable")]:
        one, other = sorted((root(a), root(b)))
        if one == other:
            continue
        if trees[a].query(trees[b].data, distance_upper_bound=radius)[0].min() < radius:
            parent[other] = one
    return np.array([root(k) for k in range(len(cells))])


def normals(
    points: np.ndarray, radius: float = 0.10, neighbours: int = 30
) -> np.ndarray:
    """Returns unit normals [N,3] float64, turned towards the origin, the camera.

    A normal is the direction of least variance of a point's nearest points. (0,0,1),
    turned, where fewer than three are near.

    Args:
        points: [N,3] metres.
        radius: metres, beyond which no point is a neighbour.
        neighbours: most points that count, the point itself included.

    Source: Open3D, PointCloud.estimate_normals with KDTreeSearchParamHybrid; Open3D
    leaves the sign open.
    """
    points = np.asarray(points, np.float64)
    if not len(points):
        return np.zeros((0, 3))
    tree, count = cKDTree(points), min(neighbours, len(points))
    found = []
    for start in range(0, len(points), POINTS_AT_A_TIME):
        some = points[start : start + POINTS_AT_A_TIME]
        distance, nearest = tree.query(some, k=np.arange(1, count + 1))
        near = distance <= radius
        steps = np.where(near[..., None], points[nearest] - some[:, None], 0)
        number = near.sum(1)
        mean = steps.sum(1) / number[:, None]
        steps = np.where(near[..., None], steps - mean[:, None], 0)
        axes = np.linalg.eigh(np.einsum("nki,nkj->nij", steps, steps))[1]
        found.append(np.where((number < 3)[:, None], [0.0, 0.0, 1.0], axes[:, :, 0]))
    normal = np.concatenate(found)
    leaving = (normal * points).sum(1) > 0
    return np.where(leaving[:, None], -normal, normal)


def open3d() -> ModuleType:
    """Returns the module open3d.

    Raises:
        DatasetError: it cannot be imported; says what to install.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise DatasetError(
            "FPFH by Open3D needs the package open3d (pip install open3d) and, on a "
            "bare machine, the system libraries libusb-1.0-0, libgl1, libx11-6, "
            f"libegl1 and libgomp1; importing it failed: {error}"
        ) from error
    return open3d


def normals_and_fpfh(
    points: np.ndarray,
    normal_radius: float = 0.10,
    normal_neighbours: int = 30,
    radius: float = 0.25,
    neighbours: int = 100,
) -> np.ndarray:
    """Returns Open3D's fast point feature histograms (Rusu et al., ICRA 2009).

    Normals are those of the public implementation of BTF: at most so many neighbours
    within a radius, not oriented.

    Args:
        points: [N,3] metres.
        normal_radius: metres, of a normal's neighbours.
        normal_neighbours: most neighbours of a normal.
        radius: metres, of a histogram's neighbours.
        neighbours: most neighbours of a histogram.

    Returns:
        [N,33] float64: three histograms of 11 angles, each summing to 200, or to 0 for
        a point without neighbours.

    Raises:
        DatasetError: Open3D cannot be imported.
    """
    library = open3d()
    if not len(points):
        return np.zeros((0, FPFH_SIZE))
    search = library.geometry.KDTreeSearchParamHybrid
    cloud = library.geometry.PointCloud(
        library.utility.Vector3dVector(np.asarray(points, np.float64))
    )
    cloud.estimate_normals(search(radius=normal_radius, max_nn=normal_neighbours))
    feature = library.pipelines.registration.compute_fpfh_feature(
        cloud, search(radius=radius, max_nn=neighbours)
    )
    return np.asarray(feature.data).T
