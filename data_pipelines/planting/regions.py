"""Where a defect lies: the part, and blobs, lines and patches of noise on it.

A profile is [h,w] float32 in [0,1], above 0 in one connected region and 0 elsewhere.
Lengths are in square roots of the part's area, its extent.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from data_pipelines import geometry
from data_pipelines.errors import DatasetError
from data_pipelines.measured import measured
from data_pipelines.recipes import Sample

RADIUS = (0.04, 0.12)  # of a blob
ROUGHNESS = 0.35  # of a blob's outline
EDGE = 0.1  # of a blob's height, below which it is cut off
TABLE = 0.003  # metres; nearer to the plane through the border is no part
STRIP = 0.04  # of the shorter side: the border that shows what lies around the part
LEAST, MOST = 0.02, 0.98  # shares of the image; outside them all of it is the part
GAP = 0.015  # of the image's height: half the width of a shadow on the part
BISECTIONS = 10  # of the height of noise at which a patch has its area
BEND = 0.15  # radians that a line turns by in a tenth of its length, standard deviation


def part_of(sample: Sample) -> tuple[np.ndarray, geometry.Plane | None]:
    """Returns which pixels [h,w] show the part, and the plane that it lies on.

    With points: those off the plane through the border. Without: pixels whose colour is
    unlike that of the border. All that was measured where no part is found.
    """
    height, width = sample.size
    strip = max(2, round(STRIP * min(height, width)))
    border = np.ones((height, width), bool)
    border[strip:-strip, strip:-strip] = False
    plane = None
    if sample.xyz is None:
        there = np.ones((height, width), bool)
        colours = sample.rgb.astype(np.float32)
        away = np.abs(colours - np.median(colours[border], axis=0)).max(-1)
        found = away > max(12.0, 2 * np.quantile(away[border], 0.9))
    else:
        there = measured(sample.xyz)
        plane = geometry.fit_plane(sample.xyz[border & there], hypotheses=200)
        if plane is None:
            return there, None
        found = there & (plane.distance(sample.xyz) > TABLE)
    found = ndimage.binary_opening(found, iterations=2)
    # Where a sensor lost points in the middle of the part, the picture shows it.
    closed = ndimage.binary_closing(found, iterations=max(2, round(GAP * height)))
    found |= ndimage.binary_fill_holes(closed) & ~there
    if LEAST < found.mean() < MOST:
        return found, plane
    return there, None


def extent_of(part: np.ndarray) -> float:
    """Returns the square root of the part's area, pixels."""
    return float(np.sqrt(part.sum()))


def some_place(part: np.ndarray, random: np.random.Generator) -> tuple[int, int]:
    """Returns row and column of a random pixel of the part.

    Raises:
        DatasetError: there is no part.
    """
    places = np.flatnonzero(part)
    if not len(places):
        raise DatasetError("planted: nothing was measured, so nothing can be planted")
    row, column = divmod(int(random.choice(places)), part.shape[1])
    return row, column


def radius_of(part: np.ndarray, random: np.random.Generator) -> float:
    """Returns the radius of a random blob, 2 pixels or more."""
    return max(2.0, random.uniform(*RADIUS) * extent_of(part))


def blob(
    within: np.ndarray,
    place: tuple[int, int],
    radius: float,
    random: np.random.Generator,
    slope: float = 2.0,
) -> np.ndarray:
    """Returns the profile of a blob of smooth noise, about `radius` pixels wide.

    Args:
        within: [h,w] bool, where it lies.
        place: row and column of a pixel of it.
        radius: pixels.
        random: its source.
        slope: of its flank; 1 = a dome, more = a plateau in the middle.
    """
    noise = random.standard_normal(within.shape).astype(np.float32)
    noise = ndimage.gaussian_filter(noise, 0.4 * radius, mode="wrap")
    down, right = np.indices(within.shape, np.float32)
    distance = np.hypot(down - place[0], right - place[1]) / radius
    field = 1 - distance**2 + ROUGHNESS * noise / noise.std()
    field[place] = max(field[place], 1)
    height = np.clip(slope * field, 0, 1)
    return connected(np.where(height >= EDGE, height, 0), within, place)


def line(
    part: np.ndarray, length: float, width: float, random: np.random.Generator
) -> np.ndarray:
    """Returns the profile of a bent line on the part; it rises to 1 along its middle.

    Args:
        part: [h,w] bool.
        length: pixels.
        width: pixels.
        random: its source.
    """
    place = some_place(part, random)
    steps = 10
    heading = random.uniform(0, 2 * np.pi) + np.cumsum(random.normal(0, BEND, steps))
    way = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1), 0) / steps
    way = np.concatenate([np.zeros((1, 2)), way]) * length
    way += np.array(place) - way[steps // 2]
    at = np.linspace(0, steps, 1 + max(2 * steps, round(4 * length)))
    dense = np.stack([np.interp(at, np.arange(steps + 1), x) for x in way.T], 1)
    near = np.zeros_like(part)
    low, high = dense.min(0) - width, dense.max(0) + width
    box = zip(np.maximum(low, 0).astype(int), high.astype(int) + 2, strict=True)
    near[tuple(slice(*ends) for ends in box)] = True
    near &= part
    reach = cKDTree(dense).query(np.argwhere(near), distance_upper_bound=width)[0]
    profile = np.zeros(part.shape, np.float32)
    profile[near] = np.clip(1 - 2 * reach / width, 0, 1)
    return connected(profile, part, place)


def patch_of_noise(
    part: np.ndarray, share: float, random: np.random.Generator
) -> np.ndarray:
    """Returns the profile, 0 or 1, of a patch where Perlin noise is high.

    Args:
        part: [h,w] bool.
        share: of the part's area that it takes, 0 to 1; more where patches touch.
        random: its source.
    """
    cells = extent_of(part) / (2.0 ** random.uniform(1, 4, 2))
    noise = perlin(part.shape, np.maximum(cells, 2), random)
    place = some_place(part & (noise >= np.quantile(noise[part], 0.9)), random)
    down, right = np.indices(part.shape)
    reach = np.hypot(down - place[0], right - place[1])
    level = noise - reach / extent_of(part)
    count = max(4, round(share * part.sum()))
    low, high = level[part].min(), level[place]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = connected((level >= middle).astype(np.float32), part, place)
        low, high = (middle, high) if found.sum() >= count else (low, middle)
    return connected((level >= low).astype(np.float32), part, place)


def perlin(
    size: tuple[int, int], cells: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Returns gradient noise [h,w] float64 in about (-1,1) (Perlin, SIGGRAPH 2002).

    Args:
        size: rows and columns.
        cells: rows and columns of a cell of the lattice, pixels.
        random: its source.
    """
    at = [np.arange(n) / c for n, c in zip(size, cells, strict=True)]
    angles = random.uniform(0, 2 * np.pi, [int(x[-1]) + 2 for x in at])
    (row, column), (down, right) = zip(*(np.divmod(x, 1) for x in at), strict=True)
    row, column = row.astype(int)[:, None], column.astype(int)[None]
    down, right = down[:, None], right[None]

    def corner(i, j):
        angle = angles[row + i, column + j]
        return np.sin(angle) * (down - i) + np.cos(angle) * (right - j)

    def mixed(a, b, t):
        return a + (b - a) * t**3 * (t * (6 * t - 15) + 10)

    top = mixed(corner(0, 0), corner(0, 1), right)
    return np.sqrt(2) * mixed(top, mixed(corner(1, 0), corner(1, 1), right), down)


def connected(
    profile: np.ndarray, within: np.ndarray, place: tuple[int, int]
) -> np.ndarray:
    """Returns the profile where it is connected with a place inside of `within`."""
    labels, _ = ndimage.label((profile > 0) & within)
    here = (labels == labels[place]) & (labels > 0)
    return np.where(here, profile, 0).astype(np.float32)
