"""The extra `patches`: overlapping patches of equally many points over the object.

Centres are spread over the cloud by farthest point sampling, and a patch is what lies
nearest to its centre.

Source: `cut_patches.py` of Shape-Guided (Chu et al., ICML 2023). Ours differs: the
first centre is drawn by the parameter `patch_seed` and the cloud itself, so that it is
the same in every run, and what is kept are the pixels of the points.
"""

import zlib
from functools import partial

import jax
import numpy as np

from ad3d_jax.ops.point_sets import farthest_points, nearest_points
from data_pipelines.errors import DatasetError
from data_pipelines.recipes.base import Parameters, Scene, check_whole, sizes

DEFAULTS = {
    "patch_points": 500,  # of a patch
    "patch_overlap": 10,  # patches that a point is in, by the mean
    "patch_limit": 640,  # patches of a sample, which takes room for as many
    "patch_seed": 0,
}
LEAST = {"patch_points": 2, "patch_overlap": 1, "patch_limit": 1, "patch_seed": 0}


def patches(params: Parameters, scene: Scene) -> np.ndarray:
    """Returns the pixels of all patches, [patch_limit, patch_points].

    The nearest to the centre comes first. A pixel's number, row by row, plus 1; rows of
    0 stand for patches that there are not. A point counts if none of its coordinates is
    0. N points have round(N * patch_overlap / patch_points) patches; fewer than
    `patch_points` have none.

    Raises:
        DatasetError: there are more patches than `patch_limit`.
    """
    xyz = scene.sample.xyz.reshape(-1, 3)
    there = (xyz != 0).all(axis=1)
    points, limit = params["patch_points"], params["patch_limit"]
    count = patch_count(params, int(there.sum()))
    made = np.zeros((limit, points), dtype(params))
    if not count:
        return made
    if count > limit:
        raise DatasetError(
            f"recipe: patch_limit: expected at most {limit} patches of a sample, found "
            f"{there.sum()} points with {count}; recipe plane removes the table, and "
            "data.recipe_parameters.patch_limit makes room for more"
        )
    xyz = normalised(xyz, there)
    found = spread_patches(xyz, there, first_centre(params, xyz, there), limit, points)
    made[:count] = np.asarray(found)[:count] + 1
    return made


def patch_count(params: Parameters, points: int) -> int:
    """Returns how many patches a cloud of so many points has."""
    if points < params["patch_points"]:
        return 0
    return round(points * params["patch_overlap"] / params["patch_points"])


def normalised(xyz: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Returns points [N,3] less their least coordinates, by their extent along x."""
    if not there.any():
        return xyz
    least, most = xyz[there].min(0), xyz[there].max(0)
    extent = most[0] - least[0]
    return (xyz - least) / (extent if extent > 0 else np.float32(1))


def first_centre(params: Parameters, xyz: np.ndarray, there: np.ndarray) -> int:
    """Returns the number of the first centre, drawn by the seed and the points."""
    content = zlib.crc32(np.ascontiguousarray(xyz[there]).tobytes())
    random = np.random.default_rng((params["patch_seed"], content))
    return int(random.choice(np.flatnonzero(there)))


def shape(params: Parameters) -> tuple[int, ...]:
    """Returns the shape of `patches`."""
    return params["patch_limit"], params["patch_points"]


def dtype(params: Parameters) -> str:
    """Returns the narrowest dtype that counts an image's pixels."""
    rows, columns = sizes(params)[0]
    return "uint16" if rows * columns < 2**16 else "int32"


def check(params: Parameters) -> None:
    """Raises DatasetError where a parameter is out of its range."""
    for name, least in LEAST.items():
        check_whole(name, params, least)


@partial(jax.jit, static_argnames=("limit", "points"))
def spread_patches(
    xyz: np.ndarray, there: np.ndarray, first: int, limit: int, points: int
) -> jax.Array:
    """Returns the points of `limit` patches, [limit,points] int32.

    Args:
        xyz: [N,3] float32.
        there: [N] bool, which points count.
        first: number of the first centre.
        limit: patches.
        points: of a patch.
    """
    centres = farthest_points(xyz, there, limit, first)
    return nearest_points(xyz, there, centres.xyz, points)
