"""Planted defects: what they do to height and colour, and their exact pixels.

A defect changes nothing outside its mask, and its mask lies on the normal part. Lengths
are millimetres, `x` and `y` as in `surfaces`.
"""

from typing import NamedTuple

import numpy as np

from data_pipelines.synthetic.surfaces import Surface, mix, noise, ramp

COLOUR_ONLY = ("print", "stain")
DEPTH_ONLY = ("bump", "dent")
COLOUR_AND_DEPTH = ("crack", "hole", "missing_part")

DEFECTS = {
    "biscuit": ("bump", "crack", "hole", "missing_part", "stain"),
    "bun": ("bump", "crack", "dent", "hole", "stain"),
    "flange": ("bump", "dent", "hole", "missing_part", "print", "stain"),
    "rope": ("bump", "crack", "dent", "missing_part", "stain"),
}


class Defect(NamedTuple):
    """A damaged part and where it differs from the normal one."""

    surface: Surface
    mask: np.ndarray  # [H,W] bool


def place(rng: np.random.Generator, x, y, inside, margin: float) -> tuple[float, float]:
    """Returns a random point (x, y) at least `margin` from the outline where one is.

    On a part thinner than that, a point in the deepest tenth of it.
    """
    deepest = np.sort(inside[inside > 0])[::-1]
    bound = min(margin, deepest[len(deepest) // 10])
    rows, columns = np.nonzero(inside >= bound)
    index = int(rng.random() * len(rows))
    return x[rows[index], columns[index]], y[rows[index], columns[index]]


def blob(rng, x, y, centre, radius: float, ragged: float) -> np.ndarray:
    """Returns the level [H,W] of an uneven ellipse: 1 in the middle, 0 at its edge."""
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.75, 1.0)
    edge = noise(rng, x, y, 1.6 * radius)
    right, down = x - centre[0], y - centre[1]
    along = np.cos(angle) * right + np.sin(angle) * down
    across = np.cos(angle) * down - np.sin(angle) * right
    distance = np.hypot(along * np.sqrt(aspect), across / np.sqrt(aspect))
    return 1.0 - distance / radius * (1.0 + ragged * np.clip(edge, -1.5, 1.5))


def stain(rng, part: Surface, x, y) -> Defect:
    """Spills oil or dye on the part: colour alone, 10 to 17 mm wide."""
    radius, strength = rng.uniform(5.0, 8.5), rng.uniform(0.7, 0.95)
    dye = np.array([(0.22, 0.16, 0.1), (0.2, 0.3, 0.22), (0.45, 0.12, 0.1)])[
        rng.integers(3)
    ]
    level = blob(rng, x, y, place(rng, x, y, part.inside, radius), radius, 0.25)
    share = strength * ramp(level, 0.0, 0.3)
    mask = (share > 0.1) & (part.inside > 0)
    return Defect(part._replace(albedo=mix(part.albedo, dye, share * mask)), mask)


def print_(rng, part: Surface, x, y) -> Defect:
    """Prints a stray mark of parallel bars on the part: colour alone."""
    length, angle, bars = rng.uniform(12, 17), rng.uniform(0, np.pi), rng.integers(3, 5)
    ink = np.array([(0.1, 0.12, 0.3), (0.5, 0.1, 0.08), (0.06, 0.06, 0.06)])[
        rng.integers(3)
    ]
    centre = place(rng, x, y, part.inside, 5.0)
    right, down = x - centre[0], y - centre[1]
    along = np.cos(angle) * right + np.sin(angle) * down
    across = np.cos(angle) * down - np.sin(angle) * right
    row = across / 4.0 + 0.5 * (bars % 2 - 1)
    on_bar = np.abs(row - np.round(row)) * 4.0 < 1.3
    on_bar &= (np.abs(across) < 2.0 * bars) & (np.abs(along) < 0.5 * length)
    mask = on_bar & (part.inside > 0)
    return Defect(part._replace(albedo=mix(part.albedo, ink, 0.85 * mask)), mask)


def dent(rng, part: Surface, x, y) -> Defect:
    """Presses a smooth hollow of 2.5 to 4.5 mm into the part: depth alone."""
    return _swell(rng, part, x, y, -rng.uniform(2.5, 4.5))


def bump(rng, part: Surface, x, y) -> Defect:
    """Raises a smooth blister of 2.5 to 4.5 mm: depth alone."""
    return _swell(rng, part, x, y, rng.uniform(2.5, 4.5))


def _swell(rng, part: Surface, x, y, amount: float) -> Defect:
    radius = rng.uniform(6.0, 9.5)
    level = blob(rng, x, y, place(rng, x, y, part.inside, radius), radius, 0.1)
    profile = ramp(level, 0.0, 0.8)
    mask = (profile > 0.1) & (part.inside > 0)
    return Defect(part._replace(height=part.height + amount * profile * mask), mask)


def hole(rng, part: Surface, x, y) -> Defect:
    """Punches a dark hole of 7 to 13 mm width and at least 5 mm depth."""
    radius, depth = rng.uniform(3.5, 6.5), rng.uniform(5.0, 12.0)
    level = blob(rng, x, y, place(rng, x, y, part.inside, radius + 2), radius, 0.12)
    mask = (level > 0) & (part.inside > 0)
    height = part.height - depth * ramp(level, 0.0, 0.25) * mask
    dark = mix(part.albedo, 0.25 * part.albedo, ramp(level, 0.0, 0.25) * mask)
    return Defect(part._replace(height=np.maximum(height, 0.3), albedo=dark), mask)


def crack(rng, part: Surface, x, y) -> Defect:
    """Opens a jagged cleft, 20 to 36 mm long, 2 mm wide and 3 to 6 mm deep."""
    steps, width, depth = 9, rng.uniform(1.0, 1.6), rng.uniform(3.0, 6.0)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.45, steps))
    stride = rng.uniform(2.2, 4.0)
    walk = stride * np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0)
    walk += place(rng, x, y, part.inside, 8.0) - walk[steps // 2]
    nearest = np.full(x.shape, np.inf)
    for start, end in zip(walk[:-1], walk[1:], strict=True):
        step = end - start
        share = ((x - start[0]) * step[0] + (y - start[1]) * step[1]) / (step @ step)
        share = np.clip(share, 0.0, 1.0)
        away = np.hypot(x - start[0] - share * step[0], y - start[1] - share * step[1])
        nearest = np.minimum(nearest, away)
    mask = (nearest < width) & (part.inside > 0)
    profile = (1.0 - 0.6 * nearest / width) * mask
    dark = mix(part.albedo, 0.2 * part.albedo, profile)
    height = np.maximum(part.height - depth * profile, 0.3)
    return Defect(part._replace(height=height, albedo=dark), mask)


def missing_part(rng, part: Surface, x, y) -> Defect:
    """Breaks a piece of 8 to 13 mm radius off the outline, down to the table."""
    radius, angle = rng.uniform(8.0, 13.0), rng.uniform(0, 2 * np.pi)
    reach = np.where(part.inside > 0, np.cos(angle) * x + np.sin(angle) * y, -np.inf)
    corner = np.unravel_index(np.argmax(reach), reach.shape)
    level = blob(rng, x, y, (x[corner], y[corner]), radius, 0.15)
    mask = (level > 0) & (part.inside > 0)
    inside = np.minimum(part.inside, -radius * level)
    return Defect(part._replace(inside=inside), mask)


MAKERS = {
    "bump": bump,
    "crack": crack,
    "dent": dent,
    "hole": hole,
    "missing_part": missing_part,
    "print": print_,
    "stain": stain,
}
