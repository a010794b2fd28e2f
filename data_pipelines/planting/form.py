"""Defects of shape: they move points along their view rays and shade the picture anew.

Heights are in diagonals of the part.
"""

import numpy as np
from scipy import ndimage

from data_pipelines.measured import measured
from data_pipelines.planting.appearance import unlike
from data_pipelines.planting.regions import blob, line, radius_of, some_place
from data_pipelines.planting.scene import Scene, along_rays, lit, normals_of
from data_pipelines.recipes import Sample

HEIGHT = (0.005, 0.03)  # 0.5 to 3 mm of 100 mm
BODY = (0.01, 0.04)  # height of a foreign body
CUT_LENGTH = (0.15, 0.5)  # of the part's extent
CUT_WIDTH = (0.012, 0.03)
CUT_COLOUR = ((0.45, 0.8), (1.2, 1.6))  # of the bared material, darker or brighter
FIBRE_LENGTH, FIBRE_WIDTH = (0.2, 0.6), (0.015, 0.03)
NARROWEST = 3.0  # pixels of a line
STEEP = 3.0  # by what the flank of a step is steeper than that of a blob
GONE = (0.06, 0.14)  # of the part's extent: radius of a missing piece
FAR = 4.0  # times as far as the part, from where on a table is not seen
HOLE = 0.15  # of the light that comes out of a hole
SHIFTS = 40  # places that are tried for what lies around the part


def bump(scene: Scene, random: np.random.Generator) -> Sample:
    """Raises the surface smoothly."""
    return _risen(scene, random.uniform(*HEIGHT) * _round(_blob(scene, random, 1.0)))


def dent(scene: Scene, random: np.random.Generator) -> Sample:
    """Presses the surface in smoothly."""
    return _risen(scene, -random.uniform(*HEIGHT) * _round(_blob(scene, random, 1.0)))


def step(scene: Scene, random: np.random.Generator) -> Sample:
    """Raises or lowers a piece of the surface as a whole, with steep flanks."""
    towards = random.choice((-1.0, 1.0)) * random.uniform(*HEIGHT)
    return _risen(scene, towards * np.minimum(1, STEEP * _blob(scene, random)))


def cut(scene: Scene, random: np.random.Generator) -> Sample:
    """Cuts a thin groove, whose material is darker or brighter."""
    shape = _line(scene, CUT_LENGTH, CUT_WIDTH, random)
    made = _risen(scene, -random.uniform(*HEIGHT) * shape)
    if made.rgb is None:
        return made
    bared = random.uniform(*CUT_COLOUR[random.integers(2)])
    opacity = np.minimum(1, 2 * shape)[..., None]
    return made._replace(rgb=made.rgb * (1 + opacity * (bared - 1)))


def foreign(scene: Scene, random: np.random.Generator) -> Sample:
    """Lays a lump or a fibre of another colour on the part."""
    if random.random() < 0.5:
        shape = _blob(scene, random, 1.0)
    else:
        shape = _line(scene, FIBRE_LENGTH, FIBRE_WIDTH, random)
    dome = np.sqrt(1 - (1 - shape) ** 2)
    wide = 2 * ndimage.distance_transform_edt(shape > 0).max()  # pixels
    pixel = scene.diagonal / (np.sqrt(2) * scene.extent)
    height = min(random.uniform(*BODY) * scene.diagonal, wide * pixel)
    made = _risen(scene, height / scene.diagonal * dome)
    if made.rgb is None:
        return made
    shade = scene.light.shade(normals_of(_surface(scene, height * dome)))
    usual = scene.light.shade(normals_of(scene.surface))[scene.part].mean()
    paint = unlike(scene.sample.rgb[shape > 0].mean(0), random)
    body = paint * (shade / usual)[..., None]
    cover = np.minimum(1, 3 * shape)[..., None]
    return made._replace(rgb=(1 - cover) * scene.sample.rgb + cover * body)


def missing(scene: Scene, random: np.random.Generator) -> Sample:
    """Breaks a piece off the part's outline: what lies around it shows there.

    Where all there is is the part, a hole: dark, and without points.
    """
    part = scene.part
    outline = part & ~ndimage.binary_erosion(part, iterations=2, border_value=1)
    place = some_place(outline if outline.any() else part, random)
    radius = max(2.0, random.uniform(*GONE) * scene.extent)
    gone = blob(part, place, radius, random) > 0
    rgb, xyz, _ = scene.sample
    there = np.zeros_like(gone)
    if outline.any():
        there, shift = _around(scene, gone, random)
    if rgb is not None:
        new = HOLE * rgb.astype(np.float32)
        if there.any():
            around = np.roll(rgb, shift, (0, 1))
            new = np.where(there[..., None], around, np.median(around[there], axis=0))
        rgb = np.where(gone[..., None], new, rgb)
    if xyz is not None:
        xyz = np.where(gone[..., None], np.float32(0), xyz)
        if scene.plane is not None and there.any():
            seen = measured(np.roll(scene.sample.xyz, shift, (0, 1))) & there
            with np.errstate(divide="ignore"):
                down = -scene.plane.offset / (scene.surface @ scene.plane.normal)
            seen &= (down > 0) & (down < FAR)
            table = along_rays(scene.surface, np.where(seen, down, 0))
            xyz = np.where(seen[..., None], table.astype(np.float32), xyz)
    return Sample(rgb, xyz, gone)


def _around(
    scene: Scene, gone: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns where a shifted picture shows what lies around, and the best shift."""
    off = ~ndimage.binary_dilation(scene.part, iterations=3)
    best = np.zeros_like(gone), (0, 0)
    for _ in range(SHIFTS):
        shift = tuple(int(random.integers(n)) for n in gone.shape)
        there = np.roll(off, shift, (0, 1)) & gone
        if there.sum() > best[0].sum():
            best = there, shift
    return best


def _blob(scene: Scene, random: np.random.Generator, slope: float = 2.0) -> np.ndarray:
    place, radius = some_place(scene.part, random), radius_of(scene.part, random)
    return blob(scene.part, place, radius, random, slope)


def _line(scene: Scene, length, width, random: np.random.Generator) -> np.ndarray:
    long, wide = (random.uniform(*x) * scene.extent for x in (length, width))
    return line(scene.part, long, max(NARROWEST, wide), random)


def _round(shape: np.ndarray) -> np.ndarray:
    """Returns a profile without an edge at its foot and its top."""
    return shape * shape * (3 - 2 * shape)


def _surface(scene: Scene, rise: np.ndarray) -> np.ndarray:
    """Returns the surface risen towards the camera, by its own units [h,w]."""
    far = np.linalg.norm(scene.surface, axis=-1)
    return along_rays(scene.surface, 1 - rise / np.maximum(far, 1e-9))


def _risen(scene: Scene, rise: np.ndarray) -> Sample:
    """Returns the sample with the surface risen towards the camera, in diagonals."""
    rgb, xyz, _ = scene.sample
    rise = rise.astype(np.float64) * scene.diagonal
    if rgb is not None:
        rgb = rgb * lit(scene, _surface(scene, rise))[..., None]
    if xyz is not None:
        far = np.linalg.norm(xyz, axis=-1)
        factor = np.where(far > 0, 1 - rise / np.maximum(far, 1e-9), 1)
        xyz = along_rays(xyz, factor)
    return Sample(rgb, xyz, rise != 0)
