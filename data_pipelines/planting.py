"""Plants a defect into a sample as it was measured.

A blob of smooth noise on the part takes another colour, is raised or dented along the
view rays, loses its points, or takes a colour and a shape at once.
"""

import numpy as np
from scipy import ndimage

from data_pipelines import geometry
from data_pipelines.errors import DatasetError
from data_pipelines.measured import measured
from data_pipelines.recipes import Sample

COLOUR, SHAPE = ("colour", "both"), ("bump", "dent", "missing", "both")
KINDS = ("colour", "bump", "dent", "missing", "both")
EDGE = 0.1  # of a blob's full height; what lies lower is not marked as a defect
RADIUS = (0.04, 0.12)  # of a blob, in square roots of the part's area
ROUGHNESS = 0.35  # of a blob's outline
OPACITY = (0.35, 0.9)  # of a colour in the middle of a blob
CONTRAST = 60  # levels of 255 by which one channel differs at least
HEIGHT = (0.005, 0.03)  # of a bump, in diagonals of the part: 0.5 to 3 mm of 100 mm
TABLE = 0.003  # metres; nearer to the plane through the border is no part
STRIP = 0.04  # of the shorter side: the border that shows what lies around the part
LEAST, MOST = 0.02, 0.98  # shares of the image; outside them all of it is the part


def plant(sample: Sample, kind: str, random: np.random.Generator) -> Sample:
    """Returns the sample with one planted defect, and its mask.

    The mask is 255 where the blob is higher than `EDGE`, measured or not. Outside of
    the blob no bit changes. `dent` and `bump` move points away from the camera and
    towards it, which stands in the origin; `missing` sets those in the mask to (0,0,0).
    """
    part = part_of(sample)
    blob = smooth_blob(part, random)
    rgb, xyz = sample.rgb, sample.xyz
    if kind in COLOUR:
        rgb = _tinted(rgb, blob, random)
    if kind == "missing":
        xyz = np.where((blob >= EDGE)[..., None], np.float32(0), xyz)
    elif kind in SHAPE:
        towards = {"bump": -1, "dent": 1}.get(kind) or random.choice((-1, 1))
        height = towards * random.uniform(*HEIGHT) * _diagonal(xyz[part])
        xyz = _moved(xyz, height * blob)
    mask = np.where(blob >= EDGE, 255, 0).astype(np.uint8)
    return Sample(rgb, xyz, mask)


def part_of(sample: Sample) -> np.ndarray:
    """Returns which pixels [h,w] show the part, all measured ones where none is found.

    With points: those off the plane through the border. Without: pixels whose colour
    is unlike that of the border.
    """
    height, width = sample.size
    strip = max(2, round(STRIP * min(height, width)))
    border = np.ones((height, width), bool)
    border[strip:-strip, strip:-strip] = False
    if sample.xyz is None:
        there = np.ones((height, width), bool)
        colours = sample.rgb.astype(np.float32)
        away = np.abs(colours - np.median(colours[border], axis=0)).max(-1)
        found = away > max(12.0, 2 * np.quantile(away[border], 0.9))
    else:
        there = measured(sample.xyz)
        plane = geometry.fit_plane(sample.xyz[border & there], hypotheses=200)
        if plane is None:
            return there
        found = there & (plane.distance(sample.xyz) > TABLE)
    found = ndimage.binary_opening(found, iterations=2)
    return found if LEAST < found.mean() < MOST else there


def smooth_blob(part: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns a connected blob [h,w] float32 that rises from 0 at its edge to 1.

    Args:
        part: [h,w] bool, where it lies.
        random: its source.

    Raises:
        DatasetError: there is no part.
    """
    rows, columns = np.nonzero(part)
    if not len(rows):
        raise DatasetError("planted: nothing was measured, so nothing can be planted")
    place = random.integers(len(rows))
    radius = max(2.0, random.uniform(*RADIUS) * np.sqrt(len(rows)))
    noise = random.standard_normal(part.shape).astype(np.float32)
    noise = ndimage.gaussian_filter(noise, 0.4 * radius, mode="wrap")
    down, right = np.indices(part.shape)
    distance = np.hypot(down - rows[place], right - columns[place]) / radius
    field = 1 - distance**2 + ROUGHNESS * noise / noise.std()
    field[rows[place], columns[place]] = max(field[rows[place], columns[place]], 1)
    labels, _ = ndimage.label((field > 0) & part)
    here = labels == labels[rows[place], columns[place]]
    return np.where(here, np.clip(2 * field, 0, 1), 0).astype(np.float32)


def _tinted(
    rgb: np.ndarray, blob: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Returns the image with a colour blended in that is unlike what lies there."""
    there = rgb[blob >= EDGE].mean(0)
    colour = random.integers(0, 256, 3)
    if np.abs(colour - there).max() < CONTRAST:
        channel = random.integers(3)
        colour[channel] = 255 if there[channel] < 128 else 0
    alpha = random.uniform(*OPACITY) * blob[..., None]
    return np.rint(rgb + alpha * (colour - rgb.astype(np.float32))).astype(np.uint8)


def _moved(xyz: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Returns the points moved along their view rays by metres [h,w]."""
    length = np.linalg.norm(xyz, axis=-1)
    factor = np.where(length > 0, 1 + distance / np.maximum(length, 1e-6), 1)
    return (xyz * factor[..., None]).astype(np.float32)


def _diagonal(points: np.ndarray) -> float:
    """Returns the diagonal of the middle 96 % of points [N,3], metres."""
    low, high = np.quantile(points, (0.02, 0.98), axis=0)
    return float(np.linalg.norm(high - low))
