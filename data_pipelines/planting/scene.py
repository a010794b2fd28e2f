"""A good sample as defects are planted into it: part, smooth surface and light."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data_pipelines.geometry import Plane
from data_pipelines.measured import measured
from data_pipelines.planting import light as lights
from data_pipelines.planting.light import ASSUMED, Light
from data_pipelines.planting.regions import extent_of, part_of
from data_pipelines.recipes import Sample

SMOOTH = 0.012  # of the part's extent: standard deviation of the smoothing
RELIEF = (0.4, 2.0)  # by what a picture is made darker or brighter at most
DARK, BRIGHT = 6, 249  # levels of 255; beyond them a pixel says nothing of the light
PIXELS = 20_000  # of a sample that the light is estimated from, at most


class Scene(NamedTuple):
    """A good sample and what is known of it.

    The surface has a point for each pixel, measured or not. Of a sample without points
    it is a plane that faces the camera, whose pixels are one unit wide.
    """

    sample: Sample
    part: np.ndarray  # [h,w] bool
    plane: Plane | None  # that the part lies on; None = all there is is the part
    surface: np.ndarray  # [h,w,3] float64, smooth
    light: Light

    @property
    def extent(self) -> float:
        """Returns the square root of the part's area, pixels."""
        return extent_of(self.part)

    @property
    def diagonal(self) -> float:
        """Returns the diagonal of the middle 96 % of the part, units of the surface."""
        low, high = np.quantile(self.surface[self.part], (0.02, 0.98), axis=0)
        return float(np.linalg.norm(high - low))


def scene_of(sample: Sample, light: Light = ASSUMED) -> Scene:
    """Returns the scene of a good sample; its mask plays no part."""
    part, plane = part_of(sample)
    if sample.xyz is None:
        down, right = np.indices(part.shape, float)
        far = np.full(part.shape, 10.0 * max(part.shape))
        surface = np.stack([right - part.shape[1] / 2, down - part.shape[0] / 2, far])
        return Scene(sample, part, plane, np.moveaxis(surface, 0, -1), light)
    return Scene(sample, part, plane, _smooth(sample.xyz, extent_of(part)), light)


def _smooth(xyz: np.ndarray, extent: float) -> np.ndarray:
    """Returns a smooth surface through the points; gaps take the nearest."""
    there = measured(xyz)
    if not there.any():
        return np.zeros(xyz.shape)
    z = np.where(there, xyz[..., 2], 0).astype(np.float64)
    places = np.stack([np.ones(there.sum()), *np.nonzero(there)], 1)
    slopes = xyz[there][:, :2] / xyz[there][:, 2:]
    pinhole = np.linalg.lstsq(places, slopes, rcond=None)[0]
    down, right = np.indices(there.shape)
    rays = np.stack([np.ones_like(down), down, right], -1) @ pinhole
    rays[there] = slopes
    sigma = max(1.5, SMOOTH * extent)
    nearest = ndimage.distance_transform_edt(
        ~there, return_distances=False, return_indices=True
    )
    weight = ndimage.gaussian_filter(there.astype(float), sigma)
    near = weight > 0.05
    smooth = ndimage.gaussian_filter(z, sigma) / np.where(near, weight, 1)
    smooth = np.where(near, smooth, z[tuple(nearest)])
    return (
        np.concatenate([rays, np.ones_like(smooth)[..., None]], -1) * smooth[..., None]
    )


def normals_of(surface: np.ndarray) -> np.ndarray:
    """Returns unit normals [h,w,3] of a surface [h,w,3], turned to the camera."""
    down, right = np.gradient(surface, axis=(0, 1))
    normal = np.cross(down, right)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = np.where(length > 0, normal / np.maximum(length, 1e-30), lights.FACING)
    away = (normal * surface).sum(-1, keepdims=True) > 0
    return np.where(away, -normal, normal)


def light_of(scenes: Sequence[Scene]) -> Light:
    """Returns the light of a class, estimated from scenes of good samples.

    `light.ASSUMED` where there are no pictures, or no points.
    """
    normals, grey = [np.zeros((0, 3))], [np.zeros(0)]
    for scene in scenes:
        rgb, xyz, _ = scene.sample
        if rgb is None or xyz is None:
            continue
        clear = ((rgb >= DARK) & (rgb <= BRIGHT)).all(-1)
        inner = ndimage.binary_erosion(scene.part & measured(xyz), iterations=2)
        places = np.flatnonzero(clear & inner)
        places = places[:: 1 + len(places) // PIXELS]
        normals.append(normals_of(scene.surface).reshape(-1, 3)[places])
        grey.append(rgb.reshape(-1, 3)[places].mean(-1) / 255)
    return lights.estimate(np.concatenate(normals), np.concatenate(grey))


def lit(scene: Scene, surface: np.ndarray) -> np.ndarray:
    """Returns by what the picture is brighter [h,w] with another surface [h,w,3]."""
    before, after = (
        scene.light.shade(normals_of(each)) for each in (scene.surface, surface)
    )
    return np.clip(after / before, *RELIEF)


def along_rays(points: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Returns points [h,w,3] at `factor` [h,w] times their distance, as before in type.

    What was not measured, the origin, stays there.
    """
    return (points * factor[..., None]).astype(points.dtype)
