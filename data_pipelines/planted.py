"""Good samples with planted defects: what a study is judged on instead of the test set.

Defects are planted into what the sensor measured, before any recipe, so that every
recipe and every feature sees the same ones. A blob of smooth noise on the part takes
another colour, is raised or dented along the view rays, loses its points, or takes a
colour and a shape at once. Each good sample stays in the split beside its altered
twins. All depends on (seed, id of the sample, number of the twin) alone.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from scipy import ndimage

from ad3d_jax.base import Batch
from ad3d_jax.workdir.arrays import read_arrays, write_arrays
from ad3d_jax.workdir.unreadable import UnreadableError
from data_pipelines import geometry, layout
from data_pipelines.errors import DatasetError
from data_pipelines.order import endless_batches, ordered_batches
from data_pipelines.prepared import Prepared, to_batch
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import load_sample, sample_id

SPLIT = "planted"
COLOUR, SHAPE = ("colour", "both"), ("bump", "dent", "missing", "both")
KINDS = ("colour", "bump", "dent", "missing", "both")
VERSION = 1  # of what is planted; a part of the name of the cache

EDGE = 0.1  # of a blob's full height; what lies lower is not marked as a defect
RADIUS = (0.04, 0.12)  # of a blob, in square roots of the part's area
ROUGHNESS = 0.35  # of a blob's outline
OPACITY = (0.35, 0.9)  # of a colour in the middle of a blob
CONTRAST = 60  # levels of 255 by which one channel differs at least
HEIGHT = (0.005, 0.03)  # of a bump, in diagonals of the part: 0.5 to 3 mm of 100 mm
TABLE = 0.003  # metres; nearer to the plane through the border is no part
STRIP = 0.04  # of the shorter side: the border that shows what lies around the part
LEAST, MOST = 0.02, 0.98  # shares of the picture; outside them all of it is the part


class Settings(NamedTuple):
    """What is planted."""

    seed: int = 0
    twins: int = 2  # altered samples for each good one
    kinds: tuple[str, ...] = KINDS
    hold_out: float = 0.2  # share of train, where there is no validation split


class Planted:
    """A `base.Dataset` of the single split "planted", in memory.

    `samples` are rows as the manifest has them; `defect` is "good" or what was planted.
    """

    def __init__(
        self,
        prepared: Prepared,
        samples: list[dict[str, Any]],
        arrays: dict[str, np.ndarray],
    ):
        self._prepared, self.samples, self._arrays = prepared, samples, arrays

    def size(self, split: str = SPLIT) -> int:
        """Returns the number of samples."""
        if split != SPLIT:
            raise DatasetError(f"split: expected {SPLIT!r}, found {split!r}")
        return len(self.samples)

    def endless(self, split: str, batch_size: int, seed: int, start: int):
        """Yields full batches for ever, see `base.Dataset.endless`."""
        numbers = endless_batches(self.size(split), batch_size, seed, start)
        return self._batches(numbers, batch_size)

    def ordered(self, split: str, batch_size: int, start: int):
        """Yields each sample once, see `base.Dataset.ordered`."""
        numbers = ordered_batches(self.size(split), batch_size, start)
        return self._batches(numbers, batch_size)

    def _batches(
        self, numbers: Iterator[np.ndarray], batch_size: int
    ) -> Iterator[Batch]:
        for rows in numbers:
            arrays = {name: array[rows] for name, array in self._arrays.items()}
            samples = [self.samples[row] for row in rows]
            yield to_batch(self._prepared, samples, arrays, batch_size)


def hosts(prepared: Prepared, hold_out: float) -> tuple[str, np.ndarray]:
    """Returns where defects are planted: a split and the numbers of its samples.

    All of validation; where a class has none, every so-manieth sample of train, which
    the caller must then keep from the systems.

    Raises:
        DatasetError: train is too small, or `hold_out` is not between 0 and 1.
    """
    count = len(prepared.rows("validation"))
    if count:
        return "validation", np.arange(count)
    count = len(prepared.rows("train"))
    if not 0 < hold_out < 1:
        raise DatasetError(
            f"planted: {prepared.manifest['category']} has no validation split; the "
            f"share of train held out must be between 0 and 1, found {hold_out}"
        )
    held = max(1, round(count * hold_out))
    if held >= count:
        raise DatasetError(f"planted: {count} training samples are too few to hold out")
    logging.info("no validation split: %d of %d training samples held out", held, count)
    return "train", (np.arange(held) * count) // held


def open_planted(
    root: str | Path,
    prepared: Prepared,
    settings: Settings = Settings(),  # noqa: B008
) -> Planted:
    """Returns the planted split of a prepared class, made once and kept beside it.

    Args:
        root: folder of the classes that the class was prepared from.
        prepared: of the class.
        settings: what is planted; kinds of shape are left out where there are no
            points.

    Raises:
        DatasetError: no kind is left, a kind is unknown, or the files have changed.
    """
    kinds = _possible(prepared, settings.kinds)
    content = [VERSION, prepared.manifest["hash"], settings._replace(kinds=kinds)]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    path = prepared.folder.with_name(
        f"{prepared.folder.name}-{SPLIT}-{digest[:12]}.npz"
    )
    samples, sources = [], []
    split, numbers = hosts(prepared, settings.hold_out)
    for place, number in enumerate(numbers):
        row = prepared.rows(split)[number]
        samples.append(row | {"split": SPLIT, "label": 0})
        sources.append((row, None))
        for twin in range(settings.twins):
            kind = kinds[(place * settings.twins + twin) % len(kinds)]
            name = f"{row['stem']}-{twin}"
            own = {"defect": kind, "stem": name, "id": twin_id(row["id"], twin)}
            samples.append(row | {"split": SPLIT, "label": 1} | own)
            sources.append((row, (kind, twin)))
    arrays = _read(path, len(samples))
    if arrays is None:
        arrays = _make(root, prepared, split, sources, settings.seed)
        write_arrays(path, arrays)
    return Planted(prepared, samples, arrays)


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
    height, width = sample.rgb.shape[:2]
    strip = max(2, round(STRIP * min(height, width)))
    border = np.ones((height, width), bool)
    border[strip:-strip, strip:-strip] = False
    if sample.xyz is None:
        measured = np.ones((height, width), bool)
        colours = sample.rgb.astype(np.float32)
        away = np.abs(colours - np.median(colours[border], axis=0)).max(-1)
        found = away > max(12.0, 2 * np.quantile(away[border], 0.9))
    else:
        measured = sample.xyz[..., 2] > 0
        plane = geometry.fit_plane(sample.xyz[border & measured], hypotheses=200)
        if plane is None:
            return measured
        found = measured & (plane.distance(sample.xyz) > TABLE)
    found = ndimage.binary_opening(found, iterations=2)
    return found if LEAST < found.mean() < MOST else measured


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


def twin_id(sample: int, twin: int) -> int:
    """Returns the id of a sample's altered twin, 0 to 2**31 - 1."""
    return sample_id(hashlib.sha256(f"{sample}/{twin}".encode()).hexdigest())


def _tinted(
    rgb: np.ndarray, blob: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Returns the picture with a colour blended in that is unlike what lies there."""
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


def _possible(prepared: Prepared, kinds: Sequence[str]) -> tuple[str, ...]:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise DatasetError(f"planted: expected kinds of {KINDS}, found {unknown}")
    if "xyz" not in prepared.manifest["fields"]:
        kinds = ("colour",) if set(kinds) & set(COLOUR) else ()
    if not kinds:
        raise DatasetError("planted: without points only the kind colour is possible")
    return tuple(kinds)


def _make(
    root: str | Path, prepared: Prepared, split: str, sources: list, seed: int
) -> dict[str, np.ndarray]:
    manifest = prepared.manifest
    recipe, params = RECIPES[manifest["recipe"]], manifest["params"]
    found = layout.scan(root, manifest["category"], manifest["name"])
    files = {(f.defect, f.stem): f for f in found.split(split)}
    records, loaded = [], {}
    for row, planting in sources:
        key = row["defect"], row["stem"]
        if key not in loaded:
            if key not in files:
                raise DatasetError(f"{found.root}: {split}/{'/'.join(key)} has gone")
            loaded = {key: load_sample(files[key]).sample}
        sample = loaded[key]
        if planting is not None:
            kind, twin = planting
            random = np.random.default_rng((seed, row["id"], twin))
            sample = plant(sample, kind, random)
        records.append(recipe.apply(params, sample).record)
    return {name: np.stack([r[name] for r in records]) for name in records[0]}


def _read(path: Path, count: int) -> dict[str, np.ndarray] | None:
    """Returns what was kept before, None where it is not there or damaged."""
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path)
    except UnreadableError as error:
        logging.warning("%s; it is made anew", error)
        return None
    return arrays if len(arrays.get("rgb", ())) == count else None
