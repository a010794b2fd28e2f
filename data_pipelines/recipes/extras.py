"""Makers of extras, by name: what a recipe can add to its records."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ad3d_jax.features.patches import cell_pool
from data_pipelines import geometry
from data_pipelines.measured import measured
from data_pipelines.recipes import patches, views
from data_pipelines.recipes.base import (
    NOTHING,
    Parameters,
    Scene,
    check_whole,
    sizes,
)
from data_pipelines.recipes.depth import fill_gaps

FPFH_CELLS = 28  # a side
HEIGHT_LOW, HEIGHT_SPAN = 0.2, 0.6  # normalised height lies in [0.2, 0.8]
DEPTH_LOW, DEPTH_SPAN = 0.1, 0.8  # normalised depth of the part lies in [0.1, 0.9]
FLAT = 1e-6  # metres; the least range of depths that is divided by


class Maker(NamedTuple):
    """How an extra [...] is made of a scene at the size of the images."""

    make: Callable[[Parameters, Scene], np.ndarray]
    shape: Callable[[Parameters], tuple[int, ...]]
    dtype: Callable[[Parameters], str] = lambda params: "float32"
    defaults: Parameters = NOTHING
    check: Callable[[Parameters], None] = lambda parameters: None
    needs_height: bool = False  # over the table, which not every background step knows


def fpfh_cells(params: Parameters, scene: Scene) -> np.ndarray:
    """Returns Open3D's FPFH of the points, averaged over a grid of cells.

    As BTF (Horwitz and Hoshen, CVPRW 2023), but of all measured points (there: of those
    whose coordinates all differ from 0); other pixels have a histogram of zeros.

    Returns:
        [28,28,33] float32.
    """
    del params
    xyz = scene.sample.xyz
    there = measured(xyz)
    pixels = np.zeros((*xyz.shape[:2], geometry.FPFH_SIZE), np.float32)
    pixels[there] = geometry.normals_and_fpfh(xyz[there])
    return np.asarray(cell_pool(pixels[None], cells=FPFH_CELLS))[0]


def height_normalised(params: Parameters, scene: Scene) -> np.ndarray:
    """Returns the height over the table, [H,W,1]: 0.2 on it, near is large, up to 0.8.

    The range is the scene's: of the class, or of the image.
    """
    del params
    low, high = scene.height_range
    share = np.clip((scene.height.astype(np.float64) - low) / (high - low), 0, 1)
    return (HEIGHT_LOW + HEIGHT_SPAN * share).astype(np.float32)[..., None]


def depth_normalised(params: Parameters, scene: Scene) -> np.ndarray:
    """Returns the depth of the object, [H,W,1]: near is small.

    0.1 at its nearest point and 0.9 at its farthest in each image, 0 on the background;
    then gaps are filled `passes` times.
    """
    there = scene.maps["foreground"] & scene.maps["valid"]
    z = np.where(there, scene.sample.xyz[..., 2], np.float32(0))
    return fill_gaps(stretched(z), params["passes"])[..., None]


def stretched(depth: np.ndarray) -> np.ndarray:
    """Returns 0.1 + 0.8 (z - min) / (max - min) where z [H,W] > 0, else 0, float32."""
    there = depth > 0
    result = np.zeros(depth.shape, np.float32)
    if there.any():
        values = depth[there].astype(np.float64)
        span = max(float(values.max() - values.min()), FLAT)
        result[there] = DEPTH_LOW + DEPTH_SPAN * (values - values.min()) / span
    return result


def normals(params: Parameters, scene: Scene) -> np.ndarray:
    """Returns the surface's unit normals [H,W,3], 0 where nothing was measured.

    Ours, see `geometry.normals`: of up to 30 neighbours within 0.10 m, turned to the
    camera.
    """
    del params
    valid, xyz = scene.maps["valid"], scene.sample.xyz
    result = np.zeros(xyz.shape, np.float32)
    result[valid] = geometry.normals(xyz[valid])
    return result


def _image(channels: int) -> Callable[[Parameters], tuple[int, ...]]:
    return lambda params: (*sizes(params)[0], channels)


def _check_open3d(parameters: Parameters) -> None:
    geometry.open3d()


def _check_passes(parameters: Parameters) -> None:
    check_whole("passes", parameters, 0)


def _fpfh_shape(params: Parameters) -> tuple[int, ...]:
    return FPFH_CELLS, FPFH_CELLS, geometry.FPFH_SIZE


def _position_shape(params: Parameters) -> tuple[int, ...]:
    return params["views"], *sizes(params)[0], 2


MAKERS: dict[str, Maker] = {
    "fpfh": Maker(fpfh_cells, _fpfh_shape, check=_check_open3d),
    "height_normalised": Maker(height_normalised, _image(1), needs_height=True),
    "depth_normalised": Maker(
        depth_normalised, _image(1), defaults={"passes": 2}, check=_check_passes
    ),
    "normals": Maker(normals, _image(3)),
    "views": Maker(
        *(views.views, views.shape_of_views, lambda params: "uint8"),
        *(views.DEFAULTS, views.check),
    ),
    "view_positions": Maker(
        *(views.view_positions, _position_shape, lambda params: "int16"),
        *(views.DEFAULTS, views.check),
    ),
    "patches": Maker(
        patches.patches, patches.shape, patches.dtype, patches.DEFAULTS, patches.check
    ),
}
