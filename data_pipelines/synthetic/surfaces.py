"""Procedural parts on a table: height, colour and outline of a normal specimen.

All lengths are millimetres. `x` and `y` are [H,W] float64 coordinates in the frame of
the part, `x` to the right and `y` downwards, with the origin at its middle. No random
number depends on the pixels, so that a seed gives the same specimen at any image size.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Surface(NamedTuple):
    """A part seen from above."""

    height: np.ndarray  # [H,W] float64 mm over the table, 0 beside the part
    albedo: np.ndarray  # [H,W,3] float64 in [0,1]
    inside: np.ndarray  # [H,W] float64 mm to the outline, positive on the part
    gloss: float  # strength of the highlight


def noise(rng: np.random.Generator, x, y, wavelength: float) -> np.ndarray:
    """Returns smooth noise [H,W] of about unit variance and zero mean.

    Cubic interpolation of white noise on a periodic grid of `wavelength` / 2 spacing.
    """
    grid = rng.standard_normal((48, 48))
    place = np.stack([y, x]) * (2.0 / wavelength)
    return 1.4 * ndimage.map_coordinates(grid, place, order=3, mode="grid-wrap")


def ramp(value, low: float, high: float) -> np.ndarray:
    """Returns 0 below `low`, 1 above `high` and a smooth cubic step between them."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mix(first, second, share) -> np.ndarray:
    """Returns colours [H,W,3] between two, `share` [H,W] in [0,1] of the second."""
    share = np.clip(share, 0.0, 1.0)[..., None]
    return (1.0 - share) * np.asarray(first) + share * np.asarray(second)


def tint(rng: np.random.Generator, colour, spread: float) -> np.ndarray:
    """Returns a colour [3] varied in brightness by `spread`, in hue by a sixth."""
    gain = 1.0 + spread * rng.uniform(-1, 1) + 0.15 * spread * rng.uniform(-1, 1, 3)
    return np.clip(np.asarray(colour) * gain, 0.0, 1.0)


def bun(rng: np.random.Generator, x, y) -> Surface:
    """Returns a smooth baked dome, about 74 x 66 mm and 30 mm high."""
    half_x, half_y = rng.uniform(35, 39), rng.uniform(31, 35)
    top, pale_share = rng.uniform(26, 33), rng.uniform(-0.15, 0.2)
    crust, dough = (
        tint(rng, (0.62, 0.36, 0.16), 0.12),
        tint(rng, (0.88, 0.7, 0.44), 0.08),
    )
    wave, browning = noise(rng, x, y, 60.0), noise(rng, x, y, 26.0)
    grain = noise(rng, x, y, 3.4)
    radius = np.hypot(x / half_x, y / half_y) * (1.0 + 0.02 * wave)
    inside = (1.0 - radius) * half_y
    dome = np.clip(1.0 - radius**2.4, 0.0, 1.0)
    height = top * dome**0.55 * (1.0 + 0.025 * wave) + 0.04 * grain
    share = ramp(dome, 0.05, 0.9) + pale_share - 0.18 + 0.12 * browning + 0.03 * grain
    return Surface(height, mix(dough, crust, share), inside, 0.12)


def biscuit(rng: np.random.Generator, x, y) -> Surface:
    """Returns a rough rectangular biscuit with docking pits, 76 x 58 mm, 9 mm high."""
    half_x, half_y = rng.uniform(36.5, 39), rng.uniform(27.5, 30)
    top, bow = rng.uniform(7.5, 11.5), rng.uniform(-2.0, 2.0)
    pale, brown = tint(rng, (0.8, 0.6, 0.34), 0.15), tint(rng, (0.5, 0.29, 0.12), 0.15)
    bake, rough = noise(rng, x, y, 34.0), noise(rng, x, y, 5.0)
    crumb = noise(rng, x, y, 2.6)
    teeth = np.cos(x * 2 * np.pi / 6.3) * np.cos(y * 2 * np.pi / 6.3)
    corner = np.hypot(
        np.maximum(abs(x) - half_x + 9, 0), np.maximum(abs(y) - half_y + 9, 0)
    )
    inside = 9.0 - corner + 0.45 * teeth + 0.35 * rough
    rim = ramp(inside, 0.0, 4.0)
    middle = 1.0 - (x / half_x) ** 2 - (y / half_y) ** 2
    height = top * (0.55 + 0.45 * rim) + bow * middle + 0.3 * rough + 0.18 * crumb
    pitch_x, pitch_y = half_x / 2.45, half_y / 1.95
    pit_x = x - pitch_x * np.clip(np.round(x / pitch_x), -2, 2)
    pit_y = y - pitch_y * np.clip(np.round(y / pitch_y), -1, 1)
    pit = 1.0 - ramp(np.hypot(pit_x, pit_y), 0.9, 2.6)
    height = height - 2.6 * pit
    share = 0.62 - 0.5 * rim + 0.18 * bake + 0.1 * crumb - 0.06 * rough + 0.6 * pit
    return Surface(height, mix(pale, brown, share), inside, 0.04)


def rope(rng: np.random.Generator, x, y) -> Surface:
    """Returns a three-strand rope with sleeved ends, 92 mm long and 15 mm thick."""
    radius, reach = rng.uniform(7.2, 8.2), rng.uniform(44.5, 47)
    bend, phase, turn = (
        rng.uniform(-3, 3),
        rng.uniform(0, 2 * np.pi),
        rng.uniform(17, 20),
    )
    fibre, tracer = (
        tint(rng, (0.74, 0.66, 0.5), 0.1),
        tint(rng, (0.24, 0.36, 0.6), 0.15),
    )
    sleeve = tint(rng, (0.3, 0.3, 0.32), 0.12)
    fray, strand_noise = noise(rng, x, y, 22.0), noise(rng, x, y, 2.8)
    across = y - bend * np.cos(np.pi * x / 90.0) + bend
    thick = radius * (1.0 + 0.02 * fray)
    side = np.clip(across / thick, -1.0, 1.0)
    angle = 3.0 * (phase + 2 * np.pi * x / (3.0 * turn)) + 3.0 * np.arcsin(side)
    strand = np.sqrt(np.abs(np.cos(0.5 * angle)))
    covered = ramp(np.abs(x), reach - 11.0, reach - 10.0)
    inside = np.minimum(thick - np.abs(across), reach - np.abs(x))
    inside = inside - (1.0 - covered) * 0.7 * (1.0 - strand) + 0.12 * strand_noise
    round_top = thick * (1.0 + np.sqrt(np.clip(1.0 - side**2, 0.0, 1.0)))
    height = round_top - (1.0 - covered) * 1.9 * (1.0 - strand) + 0.5 * covered
    height = height + 0.12 * strand_noise
    which = np.round(angle / (2 * np.pi)) % 3
    colour = mix(fibre, tracer, 0.85 * (which == 0))
    colour = colour * (0.5 + 0.5 * strand + 0.07 * strand_noise)[..., None]
    return Surface(height, np.clip(mix(colour, sleeve, covered), 0, 1), inside, 0.08)


def flange(rng: np.random.Generator, x, y) -> Surface:
    """Returns a turned metal flange, 80 mm wide, with a hub, a bore and six holes."""
    outer, hub = rng.uniform(39, 41), rng.uniform(20, 22)
    plate, boss = rng.uniform(7.5, 9.5), rng.uniform(17, 20)
    metal = tint(rng, (0.56, 0.57, 0.58), 0.12)
    mottle, distance = noise(rng, x, y, 30.0), np.hypot(x, y)
    turning = noise(rng, distance, 2.5 * np.arctan2(y, x), 2.6)
    around = np.arctan2(y, x)
    nearest = np.round(around * 3 / np.pi) * np.pi / 3
    bolt = np.hypot(x - 30.5 * np.cos(nearest), y - 30.5 * np.sin(nearest))
    inside = np.minimum(np.minimum(outer - distance, distance - 11.0), bolt - 4.2)
    height = plate - 1.2 * ramp(distance, outer - 1.6, outer + 0.4)
    height = height + (boss - plate) * (1.0 - ramp(distance, hub, hub + 3.0))
    height = height - 1.5 * (1.0 - ramp(distance, 11.0, 13.0)) + 0.05 * turning
    shade = 1.0 + 0.07 * turning + 0.06 * mottle
    shade = shade - 0.35 * (1.0 - ramp(bolt, 4.2, 6.0))
    return Surface(height, np.clip(metal * shade[..., None], 0, 1), inside, 0.22)


SURFACES = {"biscuit": biscuit, "bun": bun, "flange": flange, "rope": rope}
