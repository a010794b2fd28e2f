"""Defects of structure: the part itself at another place, in picture and points."""

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu

from data_pipelines.measured import measured
from data_pipelines.planting.regions import blob, radius_of, some_place
from data_pipelines.planting.scene import Scene, along_rays
from data_pipelines.recipes import Sample

AWAY = (2.0, 5.0)  # radii that a patch comes from
TURNED = np.pi / 4  # radians that a patch is turned by at most
WHOLE = 0.98  # share of a patch that must show the part
PLACES = 30  # tries to find such a patch
TWIRL = (0.6, 2.0)  # radians in the middle of a twirl
SHIFT = (0.3, 0.8)  # of the radius, in the middle of a bend


def pasted(scene: Scene, random: np.random.Generator) -> Sample:
    """Pastes a patch of the part elsewhere on it, with a seamless border.

    Picture and distances keep the gradients of the patch and meet what lies around it
    (Poisson image editing, Perez et al., SIGGRAPH 2003).
    """
    part = scene.part.copy()
    part[[0, -1]] = part[:, [0, -1]] = False  # a border has pixels around it
    best = None
    for _ in range(PLACES):
        radius, place = radius_of(part, random), some_place(part, random)
        away = random.uniform(*AWAY) * radius
        heading, turn = random.uniform(0, 2 * np.pi), random.uniform(-TURNED, TURNED)
        shape = blob(part, place, radius, random) > 0
        source = _turned(part.shape, place, turn)
        source += away * np.array([np.sin(heading), np.cos(heading)])[:, None, None]
        whole = _at(part, source[:, shape], order=0).mean()
        if best is None or whole > best[0]:
            best = whole, shape, source
        if whole >= WHOLE:
            break
    return _brought(scene, *best[1:], without_seam=True)


def warped(scene: Scene, random: np.random.Generator) -> Sample:
    """Twirls or bends the part locally, its outline as well."""
    radius, place = radius_of(scene.part, random), some_place(scene.part, random)
    radius *= 1.5  # what lies near the edge of a twirl hardly moves
    profile = blob(np.ones_like(scene.part), place, radius, random)
    if random.random() < 0.5:
        source = _turned(profile.shape, place, random.uniform(*TWIRL) * profile)
    else:
        heading = random.uniform(0, 2 * np.pi)
        towards = np.array([np.sin(heading), np.cos(heading)])[:, None, None]
        far = random.uniform(*SHIFT) * radius * profile**2
        source = np.indices(profile.shape) + far * towards
    shape = profile > 0  # without what shows no part before and after
    shape[shape] = scene.part[shape] | _at(scene.part, source[:, shape], order=0)
    return _brought(scene, shape, source, without_seam=False)


def seamless(difference: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns the smoothest values inside that continue those around: harmonic ones.

    Args:
        difference: [h,w,C], of which the pixels around `inside` count.
        inside: [h,w] bool, off the border of the image.

    Returns:
        [n,C] float64 in the order of `inside`'s pixels: each the mean of its four
        neighbours.
    """
    rows, columns = np.nonzero(inside)
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(len(rows))
    around = np.zeros((len(rows), difference.shape[-1]))
    pairs = []
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        place = rows + down, columns + right
        own = inside[place]
        around[~own] += difference[place][~own]
        pairs.append(np.stack([np.flatnonzero(own), number[place][own]]))
    i, j = np.concatenate(pairs, axis=1)
    matrix = sparse.coo_matrix((np.ones(len(i)), (i, j)), (len(rows),) * 2)
    return splu((4 * sparse.eye(len(rows)) - matrix).tocsc()).solve(around)


def _brought(
    scene: Scene, shape: np.ndarray, source: np.ndarray, without_seam: bool
) -> Sample:
    """Returns the sample with what lies at places [2,h,w] brought into a shape."""
    rgb, xyz, _ = scene.sample
    if rgb is not None:
        rgb = _joined(rgb.astype(np.float64), source, shape, without_seam)
    if xyz is not None:
        there = measured(xyz)
        far = np.linalg.norm(np.where(there[..., None], xyz, 0).astype(float), axis=-1)
        nearest = ndimage.distance_transform_edt(
            ~there, return_distances=False, return_indices=True
        )
        filled = far[tuple(nearest)][..., None]
        new = _joined(filled, source, shape, without_seam)[..., 0]
        factor = np.ones(there.shape)
        factor[shape] = np.where(
            there[shape] & _at(there, source[:, shape], order=0),
            new[shape] / np.maximum(far[shape], 1e-9),
            0,
        )
        xyz = along_rays(xyz, factor)
    return Sample(rgb, xyz, shape)


def _joined(
    there: np.ndarray, source: np.ndarray, shape: np.ndarray, without_seam: bool
) -> np.ndarray:
    """Returns an image [h,w,C] with what lies at `source` brought into a shape."""
    read = ndimage.binary_dilation(shape) if without_seam else shape
    moved = there.copy()
    moved[read] = np.stack(
        [_at(x, source[:, read]) for x in np.moveaxis(there, -1, 0)], -1
    )
    if without_seam:
        moved[shape] += seamless(there - moved, shape)
    return np.where(shape[..., None], moved, there)


def _at(image: np.ndarray, source: np.ndarray, order: int = 1) -> np.ndarray:
    """Returns an image [h,w] read at places [2,n], bilinear or the nearest pixel."""
    return ndimage.map_coordinates(image, source, order=order, mode="nearest")


def _turned(size: tuple[int, int], place: tuple[int, int], angle) -> np.ndarray:
    """Returns the places [2,h,w] turned about one by an angle, a number or [h,w]."""
    centre = np.array(place)[:, None, None]
    down, right = np.indices(size) - centre
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * down - sin * right, sin * down + cos * right]) + centre
