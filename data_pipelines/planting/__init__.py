"""Plants a defect into a good sample as it was measured.

What it looks like is in `appearance` (the picture alone), `form` (points, and a picture
that is shaded anew) and `moved` (both); how big and how strong is in docs/planted.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_pipelines.measured import measured
from data_pipelines.planting import appearance, form, moved
from data_pipelines.planting.scene import Scene, light_of, scene_of
from data_pipelines.recipes import Sample

__all__ = ["KINDS", "Kind", "Scene", "light_of", "plant", "possible", "scene_of"]

TRIES = 8  # draws of a defect, until one is visible
LEVELS = 6.0  # of 255, mean change of the picture that is visible
RISE = 0.003  # in diagonals of the part, mean change of distances that is visible
LOST = 0.5  # share of the points whose loss, or gain, is visible
SMALLEST = 0.001  # share of the part's area that a visible defect covers


class Kind(NamedTuple):
    """A kind of defect: what makes it, and which files it makes no sense without."""

    make: Callable[[Scene, np.random.Generator], Sample]
    needs: frozenset[str] = frozenset()  # of "rgb" and "xyz"


_RGB, _XYZ = frozenset({"rgb"}), frozenset({"xyz"})
KINDS = {
    "colour": Kind(appearance.colour, _RGB),
    "stain": Kind(appearance.stain, _RGB),
    "texture": Kind(appearance.texture, _RGB),
    "blur": Kind(appearance.blur, _RGB),
    "cut": Kind(form.cut),
    "pasted": Kind(moved.pasted),
    "warped": Kind(moved.warped),
    "bump": Kind(form.bump, _XYZ),
    "dent": Kind(form.dent, _XYZ),
    "step": Kind(form.step, _XYZ),
    "missing": Kind(form.missing),
    "foreign": Kind(form.foreign),
}


def possible(measured: frozenset[str]) -> tuple[str, ...]:
    """Returns the kinds that can be planted where "rgb", "xyz" or both are measured."""
    return tuple(name for name, kind in KINDS.items() if kind.needs <= measured)


def plant(scene: Scene, kind: str, random: np.random.Generator) -> Sample:
    """Returns the sample of a scene with one planted defect, and its mask.

    The mask is 255 where the defect lies, measured or not, and 0 elsewhere, where no
    bit of picture and points differs. A defect that is hardly visible is drawn again.
    """
    best = None
    for _ in range(TRIES):
        made = _exact(scene.sample, KINDS[kind].make(scene, random))
        strength = _strength(scene, made)
        if best is None or strength > best[0]:
            best = strength, made
        if strength >= 1:
            break
    return best[1]


def _exact(before: Sample, made: Sample) -> Sample:
    """Returns what was made, in the types of files and the same outside its mask."""
    where = made.mask[..., None]
    rgb = xyz = None
    if made.rgb is not None:
        levels = np.rint(np.clip(made.rgb, 0, 255)).astype(np.uint8)
        rgb = np.where(where, levels, before.rgb)
    if made.xyz is not None:
        xyz = np.where(where, made.xyz, before.xyz)
    return Sample(rgb, xyz, np.where(made.mask, 255, 0).astype(np.uint8))


def _strength(scene: Scene, made: Sample) -> float:
    """Returns how visible a defect is in what shows it best; 1 suffices."""
    where, found = made.mask > 0, [0.0]
    if made.rgb is not None and where.any():
        change = made.rgb[where].astype(float) - scene.sample.rgb[where]
        found.append(np.abs(change).mean() / LEVELS)
    if made.xyz is not None and where.any():
        there, now = measured(scene.sample.xyz)[where], measured(made.xyz)[where]
        found.append((there != now).mean() / LOST)
        change = (made.xyz[where] - scene.sample.xyz[where])[there & now]
        if len(change):
            rise = np.linalg.norm(change, axis=-1).mean()
            found.append(rise / (RISE * scene.diagonal))
    area = where.sum() / max(1, scene.part.sum())
    return float(max(found) * min(1, area / SMALLEST))
