"""Guesses what a class's files mean from a few of them, with reasons."""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ad3d_jax.image_files import FORMATS, open_image
from data_pipelines import clouds
from data_pipelines.camera import intrinsics_in, read_table
from data_pipelines.decode import COLOURS, stored_depth, stored_xyz
from data_pipelines.folders import entries
from data_pipelines.pairing import DEPTH_SUFFIXES, SUFFIXES
from data_pipelines.sensor import AXES, Sensor
from data_pipelines.sensor_file import CAMERA

LOOKED_AT = 5  # files, from which units and axes are guessed
NEAREST, FARTHEST = 0.02, 10.0  # metres, between which a median distance lies
MASKS = ("gt", "mask", "masks")
RECURS = 0.01  # share of the pixels with one value, which may mark unmeasured ones
POINT_UNITS = (1.0, 0.001, 1e-6)  # metres
DEPTH_UNITS = (0.001, 0.0001, 1e-5, 1e-6)
SURE = 0.5  # least share of x and y that columns and rows explain


class Guess(NamedTuple):
    """What the files of a class seem to mean, and why."""

    sensor: Sensor | None  # None = nothing can be declared
    reasons: tuple[str, ...]


def guess(folder: Path) -> Guess:
    """Returns what the folders and a few files of a class say of its sensor.

    Args:
        folder: of the class, in a layout with folders of each modality.
    """
    kinds = _kinds(folder)
    names = {
        "images": _first(kinds, "image", ("rgb",)),
        "masks": _first(kinds, "mask", MASKS) or "gt",
    }
    if points := _first(kinds, "points", ("xyz",)):
        return _of_points(folder, points, names)
    if depth := _first(kinds, "depth", ("depth",)):
        cameras = _first(kinds, "camera", ("camera", "cameras"))
        return _of_depth(folder, depth, names, cameras)
    return Guess(None, ("there are no points and no depth images to declare",))


def _places(folder: Path) -> Iterator[Path]:
    """Yields the folders of single modalities: two or three levels below a class."""
    for pattern in ("*/*", "*/*/*", "*/*/*/*"):
        for path in sorted(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                yield path


def _kinds(folder: Path) -> dict[str, str]:
    """Returns what the folders of each name hold: image, mask, points, depth, camera.

    Those of training samples count first.
    """
    found: dict[str, str] = {}
    for place in sorted(_places(folder), key=lambda path: "test" in path.parts):
        files = [path for path in entries(place) if path.is_file()]
        if files and place.name not in found and place.parent.name != "ground_truth":
            kind = _kind(files[0])
            if kind == "image" and place.name.lower() in MASKS:
                kind = "mask"
            found[place.name] = kind
    return found


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in DEPTH_SUFFIXES:
        with suppress(ValueError):
            stored_depth(path)
            return "depth"
    kinds = {"rgb": "image", "xyz": "points", "camera": "camera"}
    return next((kinds[m] for m in kinds if suffix in SUFFIXES[m]), "")


def _first(kinds: Mapping[str, str], kind: str, usual: Sequence[str]) -> str | None:
    """Returns the name of the folders of a kind, the usual one before others."""
    names = [name for name, found in kinds.items() if found == kind]
    return next((name for name in usual if name in names), names[0] if names else None)


def _files(folder: Path, name: str) -> list[Path]:
    """Returns some of the files in folders of a name, at equal distances."""
    found = [
        path
        for place in _places(folder)
        if place.name == name
        for path in entries(place)
        if path.is_file()
    ]
    return found[:: max(1, len(found) // LOOKED_AT)][:LOOKED_AT]


def _of_points(folder: Path, name: str, names: Mapping[str, Any]) -> Guess:
    scans, reasons = [], []
    for path in _files(folder, name):
        try:
            scans.append(_scan(path, names["images"]))
        except ValueError as error:
            reasons.append(f"{error}")
    if not scans:
        return Guess(None, tuple(reasons))
    if any(scan.shape[1] == 1 for scan in scans):
        return _of_lists(scans, name, names, reasons)
    votes = collections.Counter(filter(None, map(_axes, scans)))
    if not votes:
        return Guess(
            None, (*reasons, f"{name}: points in no order of rows and columns")
        )
    (axes, forward), count = votes.most_common(1)[0]
    reasons.append(
        f"axes {', '.join(axes)}: so x, y and z change along columns and rows in "
        f"{count} of {len(scans)} files"
    )
    missing = sorted({v for scan in scans for v in _marks(scan[..., forward])})
    if missing:
        listed = ", ".join(f"{value:g}" for value in missing)
        reasons.append(f"missing {listed}: recurs far from all other distances")
    z = np.concatenate([scan[..., forward].ravel() for scan in scans])
    z = np.abs(z[np.isfinite(z) & (z != 0) & ~np.isin(z, missing)])
    unit, reason = _unit(float(np.median(z)), POINT_UNITS)
    if unit is None:
        return Guess(None, (*reasons, reason))
    told = [clouds.told_size(path) for path in _files(folder, name)]
    sensor = Sensor(
        **names,
        points=name,
        unit=unit,
        axes=axes,
        missing=tuple(map(float, missing)) or None,
        size=told[0] if names["images"] is None else None,
    )
    if sensor.size is not None:
        rows, columns = sensor.size
        reasons.append(f"size {rows} x {columns}: as the headers of the files tell")
    return Guess(sensor, (*reasons, reason))


def _scan(path: Path, images: str | None) -> np.ndarray:
    """Returns the numbers of a file, [h,w,3] where rows and columns are known."""
    if path.suffix.lower() not in clouds.SUFFIXES:
        return stored_xyz(path)
    points, _ = clouds.read_points(path)
    beside = [] if images is None else entries(path.parent.parent / images)
    same = [image for image in beside if image.stem == path.stem]
    size = clouds.told_size(path)
    if same:
        columns, rows = open_image(same[0], COLOURS, FORMATS).size
        size = rows, columns
    if size is not None and len(points) == size[0] * size[1]:
        return points.reshape(*size, 3)
    return points


def _of_lists(
    scans: Sequence[np.ndarray],
    name: str,
    names: Mapping[str, Any],
    reasons: Sequence[str],
) -> Guess:
    widest = max(float(np.ptp(scan.reshape(-1, 3), axis=0).max()) for scan in scans)
    unit, reason = _unit(widest, POINT_UNITS)
    told = f"{name}: lists of points, whose axes and size are not guessed"
    if unit is None:
        return Guess(None, (*reasons, told, reason))
    return Guess(Sensor(**names, points=name, unit=unit), (*reasons, told, reason))


def _of_depth(
    folder: Path, name: str, names: Mapping[str, Any], cameras: str | None
) -> Guess:
    units = [stored_depth(path).ravel() for path in _files(folder, name)]
    whole = np.concatenate(units)
    there = whole[(whole > 0) & (whole < 2**16 - 1)]
    if not len(there):
        return Guess(None, (f"{name}: no distance is measured",))
    missing = (0.0, 65535.0) if (whole == 2**16 - 1).any() else None
    reasons = [f"{name}: 16-bit images, read as distances along the viewing direction"]
    if missing:
        reasons.append("missing 65535: no sensor measures the largest number")
    beside = next(
        (p / CAMERA for p in (folder, folder.parent) if (p / CAMERA).exists()), None
    )
    if beside is None and cameras is None:
        advice = (
            f"depth images need the intrinsics of their camera: write fx, fy, cx, cy "
            f"(pixels) to {folder / CAMERA}"
        )
        return Guess(None, (*reasons, advice))
    unit, reason = _unit(float(np.median(there)), DEPTH_UNITS)
    sensor = Sensor(**names, points=None, depth=name, missing=missing)
    if beside is None:
        if unit is None:
            return Guess(None, (*reasons, reason))
        return Guess(sensor._replace(unit=unit, cameras=cameras), (*reasons, reason))
    table = read_table(beside)
    if "scale" in table:
        camera = intrinsics_in(beside, table, None)
        reasons.append(f"unit {camera.scale:g} m: the scale in {beside}")
    elif unit is None:
        return Guess(None, (*reasons, reason))
    else:
        camera = intrinsics_in(beside, table, unit)
        reasons.append(reason)
    found = sensor._replace(unit=camera.scale, intrinsics=camera)
    return Guess(found, (*reasons, f"intrinsics: those of {beside}"))


def _unit(median: float, units) -> tuple[float | None, str]:
    """Returns the largest unit in which a length is one that cameras see, and why."""
    for unit in sorted(units, reverse=True):
        if NEAREST <= median * unit < FARTHEST:
            seen = f"the median of {median:g} is {median * unit:.3g} m then"
            return unit, f"unit {unit:g} m: {seen}; check it by hand"
    return None, f"a median of {median:g} is no distance in any unit"


def _marks(values: np.ndarray) -> list[float]:
    """Returns the values that recur far outside of all others."""
    finite = values[np.isfinite(values) & (values != 0)]
    found, counts = np.unique(finite, return_counts=True)
    marks = []
    for value in found[counts > RECURS * values.size]:
        others = finite[finite != value]
        if len(others) and not _near(float(value), others):
            marks.append(float(value))
    return marks


def _near(value: float, others: np.ndarray) -> bool:
    low, high = np.quantile(others, (0.01, 0.99))
    width = max(high - low, 0.5 * abs(low + high) / 2)
    return low - width <= value <= high + width


def _axes(scan: np.ndarray) -> tuple[tuple[str, str, str], int] | None:
    """Returns where x, y and z lead to, and which of them is the distance."""
    marked = [np.isin(scan[..., k], _marks(scan[..., k])) for k in range(3)]
    there = np.isfinite(scan).all(-1) & (scan != 0).any(-1) & ~np.any(marked, axis=0)
    if there.sum() < 16:
        return None
    pixels = np.argwhere(there).astype(np.float64)
    values = scan[there].astype(np.float64)
    slopes = np.zeros((2, 3))  # along rows and columns
    shares = np.zeros((2, 3))
    for k, axis in itertools.product(range(3), range(2)):
        spread = values[:, k].std(), pixels[:, axis].std()
        if all(spread):
            r = np.corrcoef(pixels[:, axis], values[:, k])[0, 1]
            slopes[axis, k], shares[axis, k] = r * spread[0] / spread[1], r**2
    steps = np.abs(slopes) * shares
    down, right = max(
        itertools.permutations(range(3), 2),
        key=lambda pair: steps[0, pair[0]] + steps[1, pair[1]],
    )
    if min(shares[0, down], shares[1, right]) < SURE:
        return None
    forward = 3 - down - right
    words = list(AXES)
    words[right] = "right" if slopes[1, right] > 0 else "left"
    words[down] = "down" if slopes[0, down] > 0 else "up"
    words[forward] = "forward" if np.median(values[:, forward]) > 0 else "back"
    return tuple(words), forward
