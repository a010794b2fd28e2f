"""The camera: light on a part, and what a structured-light scanner measures of it.

A pinhole camera looks down on a table 0.6 m away; each pixel's height over the table is
given along the pixel's own ray, so that x = (u - cx) z / f holds to float32.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data_pipelines.synthetic.surfaces import Surface, ramp

FIELD = 110.0  # mm of table across the image
DISTANCE = 600.0  # mm from the camera to the table along the optical axis
PIXEL = 3.75e-6  # m, side of a sensor element
PROJECTOR_SLOPE = 3.5  # rise over run of the pattern's rays, coming from the left
STEEP = 3.0  # rise over run beyond which a point is often lost
DEPTH_NOISE = 0.12  # mm, standard deviation
DEPTH_STEP = 0.02  # mm, quantisation


class Camera(NamedTuple):
    """Pinhole intrinsics in pixels; pixel centres have whole coordinates."""

    focal: float
    centre: float  # the same for columns and rows


class View(NamedTuple):
    """What varies from scan to scan besides the part."""

    tilt: np.ndarray  # [2] slope of the table along x and y
    offset: float  # mm that the table is farther away
    light: np.ndarray  # [3] unit vector towards the light, in part axes, z up
    tint: np.ndarray  # [3] colour and strength of the light
    darkness: float  # share of the table's points that are lost


def camera(size: int) -> Camera:
    """Returns the intrinsics of an image of `size` x `size` pixels."""
    return Camera(focal=size * DISTANCE / FIELD, centre=(size - 1) / 2)


def camera_parameters(size: int) -> dict:
    """Returns the intrinsics under the names of MVTec's file: focal = focus / sx."""
    intrinsics = camera(size)
    return {
        "camera_type": "area_scan_division",
        "focus": intrinsics.focal * PIXEL,
        "kappa": 0.0,
        "sx": PIXEL,
        "sy": PIXEL,
        "cx": intrinsics.centre,
        "cy": intrinsics.centre,
        "image_width": size,
        "image_height": size,
    }


def view(rng: np.random.Generator) -> View:
    """Returns a random view: tilt of about 7 degrees, light from above left."""
    tilt = np.array([0.02, 0.12]) + rng.normal(0, 0.003, 2)
    azimuth, elevation = np.deg2rad(rng.uniform([200, 48], [245, 62]))
    light = np.array([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)])
    tint = rng.uniform(0.85, 1.1) * (1 + rng.uniform(-0.02, 0.02, 3))
    light = light / np.linalg.norm(light)
    return View(tilt, rng.normal(0, 0.4), light, tint, rng.uniform(0.2, 0.42))


def relief(part: Surface) -> np.ndarray:
    """Returns the height [H,W] mm over the table, 0 beside the part."""
    return np.where(part.inside > 0, np.maximum(part.height, 0.0), 0.0)


def photograph(part: Surface, seen: View, size: int) -> np.ndarray:
    """Returns the noise-free colours [H,W,3] in [0,1] of the part on a dark table."""
    pitch = FIELD / size
    down, right = np.gradient(relief(part), pitch)
    steep = np.maximum(np.hypot(right, down) / 2.5, 1.0)
    normal = np.stack([-right / steep, -down / steep, np.ones_like(right)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    halfway = seen.light + np.array([0.0, 0.0, 1.0])
    halfway /= np.linalg.norm(halfway)
    diffuse = 0.34 + 0.66 * np.clip(normal @ seen.light, 0.0, 1.0)
    shine = part.gloss * np.clip(normal @ halfway, 0.0, 1.0) ** 24
    lit = (part.albedo * diffuse[..., None] + shine[..., None]) * seen.tint
    cover = np.clip(part.inside / pitch, 0.0, 1.0)[..., None]
    table = 0.035 * seen.tint
    return np.clip(cover * lit + (1.0 - cover) * table, 0.0, 1.0)


def expose(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the 8-bit image [H,W,3] with read and shot noise."""
    spread = np.sqrt(0.006**2 + 0.015**2 * colours)
    noisy = colours + spread * rng.standard_normal(colours.shape)
    return np.round(255.0 * np.clip(noisy, 0.0, 1.0)).astype(np.uint8)


def measured(height: np.ndarray, seen: View, rng: np.random.Generator) -> np.ndarray:
    """Returns which points [H,W] bool the scanner sees.

    Lost are points that the pattern, projected from the left, does not reach, most
    points on steep flanks, and at random many of the dark table, more so far down.
    """
    size = height.shape[0]
    pitch = FIELD / size
    chance = rng.random((2, size, size))
    rise = height + PROJECTOR_SLOPE * pitch * np.arange(size)
    shadow = np.maximum.accumulate(rise, axis=1) > rise + 0.5
    slope = ndimage.gaussian_gradient_magnitude(height, 0.6) / pitch
    lost = 0.85 * ramp(slope, 0.7 * STEEP, 1.6 * STEEP) + 0.004
    far = np.linspace(1.25, 0.75, size)[:, None]
    lost = np.where(height > 0, lost, np.maximum(lost, seen.darkness * far))
    return ~shadow & (chance[0] >= lost)


def scan(height, valid, seen: View, rng: np.random.Generator) -> np.ndarray:
    """Returns points [H,W,3] float32 in metres, (0,0,0) where not `valid`."""
    size = height.shape[0]
    intrinsics = camera(size)
    ray = (np.arange(size) - intrinsics.centre) / intrinsics.focal
    right, down = ray[None, :], ray[:, None]
    # The table is z = distance + tilt . (x, y); height is measured along its normal.
    facing = 1.0 - seen.tilt[0] * right - seen.tilt[1] * down
    rise = height * np.sqrt(1.0 + seen.tilt @ seen.tilt)
    z = (DISTANCE + seen.offset - rise) / facing
    z = z + DEPTH_NOISE * rng.standard_normal(z.shape)
    z = DEPTH_STEP * np.round(z / DEPTH_STEP)
    points = np.stack([right * z, down * z, z], -1) * valid[..., None]
    return (1e-3 * points).astype(np.float32)
