"""Defects of appearance alone: they change the picture and no point."""

import numpy as np
from scipy import ndimage

from data_pipelines.planting.regions import (
    blob,
    patch_of_noise,
    perlin,
    radius_of,
    some_place,
)
from data_pipelines.planting.scene import Scene
from data_pipelines.recipes import Sample

OPACITY = (0.35, 0.9)  # of a colour in the middle of a blob
CONTRAST = 60  # levels of 255 by which one channel of a colour differs at least
ABSORPTION = (0.2, 0.6)  # of the light by a stain in its middle
ABSORBED = (0.4, 1.0)  # of that, channel by channel
RIM = 0.5  # by what a stain is stronger along its rim
DIM = 64  # levels; a darker surface is not stained but has a pale deposit
DEPOSIT = (150, 230)  # levels of its colour
TEXTURE_OPACITY = (0.3, 1.0)
TEXTURE_AREA = (0.005, 0.05)  # shares of the part
WAVE = (0.01, 0.06)  # of the part's extent: wavelength of a texture
BLUR = (0.15, 0.4)  # of a blob's radius: standard deviation


def colour(scene: Scene, random: np.random.Generator) -> Sample:
    """Blends a colour in that is unlike what lies there."""
    shape = _blob(scene, random)[0]
    paint = unlike(scene.sample.rgb[shape > 0].mean(0), random)
    return _painted(scene, random.uniform(*OPACITY) * shape, paint, shape)


def stain(scene: Scene, random: np.random.Generator) -> Sample:
    """Absorbs a part of the light, most along the rim; pale where the part is dark."""
    shape = _blob(scene, random)[0]
    rgb = scene.sample.rgb.astype(np.float32)
    rim = np.exp(-(((shape - 0.35) / 0.2) ** 2)) * (shape > 0)
    strength = random.uniform(*ABSORPTION) * (shape + RIM * rim) / (1 + RIM)
    if rgb[shape > 0].mean() < DIM:
        return _painted(scene, strength, random.uniform(*DEPOSIT, 3), shape)
    left = 1 - strength[..., None] * random.uniform(*ABSORBED, 3)
    return Sample(rgb * left, scene.sample.xyz, shape > 0)


def texture(scene: Scene, random: np.random.Generator) -> Sample:
    """Blends another texture in where Perlin noise is high."""
    shape = patch_of_noise(scene.part, random.uniform(*TEXTURE_AREA), random)
    opacity = random.uniform(*TEXTURE_OPACITY) * shape
    return _painted(scene, opacity, made_up(scene, random), shape)


def blur(scene: Scene, random: np.random.Generator) -> Sample:
    """Blurs the picture, as a smear on the part or on the lens does."""
    shape, radius = _blob(scene, random)
    sigma = random.uniform(*BLUR) * radius
    rgb = scene.sample.rgb.astype(np.float32)
    smooth = ndimage.gaussian_filter(rgb, (sigma, sigma, 0))
    return _painted(scene, np.minimum(1, 2 * shape), smooth, shape)


def unlike(there: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns a random colour [3] of which a channel differs from `there` [3]."""
    found = random.integers(0, 256, 3)
    if np.abs(found - there).max() < CONTRAST:
        channel = random.integers(3)
        found[channel] = 255 if there[channel] < 128 else 0
    return found


def made_up(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """Returns a texture [h,w,3] of two colours: clouds or stripes of Perlin noise."""
    size = scene.sample.size
    wave = np.maximum(2, random.uniform(*WAVE, 2) * scene.extent)
    level = 0.5 + perlin(size, wave, random) + 0.5 * perlin(size, 2 * wave, random)
    share = np.clip(level, 0, 1)[..., None]
    one, other = random.integers(0, 256, (2, 3))
    return share * one + (1 - share) * other


def _blob(scene: Scene, random: np.random.Generator) -> tuple[np.ndarray, float]:
    radius = radius_of(scene.part, random)
    return blob(scene.part, some_place(scene.part, random), radius, random), radius


def _painted(
    scene: Scene, opacity: np.ndarray, paint: np.ndarray, shape: np.ndarray
) -> Sample:
    """Returns the sample with colours [...,3] blended in by an opacity [h,w]."""
    rgb = scene.sample.rgb.astype(np.float32)
    rgb = rgb + opacity[..., None] * (paint - rgb)
    return Sample(rgb, scene.sample.xyz, shape > 0)
