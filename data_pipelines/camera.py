"""From a depth image to an organised point cloud, with the camera's parameters."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from data_pipelines.errors import DatasetError

PINHOLE = ("fx", "fy", "cx", "cy")
HALCON = ("focus", "sx", "sy", "cx", "cy")
# Keys that may stand beside them; those of the last row are not needed.
DISTORTION = ("kappa_x", "kappa_y")  # of a pinhole camera, by pixel
ROWS = ("height", "image_height", "rows")
COLUMNS = ("width", "image_width", "columns")
UNUSED = ("camera_type", "model")
SCALE = 0.001  # where nothing is said of it
MARK = 2**16 - 1  # units of a depth image of 16 bits that no sensor measures


class Intrinsics(NamedTuple):
    """A pinhole camera, with radial distortion by the division model."""

    fx: float  # pixels
    fy: float  # pixels
    cx: float  # pixels, column of the principal point
    cy: float  # pixels, row of the principal point
    scale: float = SCALE  # metres for one unit of the depth image
    kappa_x: float = 0.0  # distortion by pixel: 1 + kappa_x du^2 + kappa_y dv^2
    kappa_y: float = 0.0
    rows: int | None = None  # of its images, where that is known
    columns: int | None = None


def read_intrinsics(path: str | Path, unit: float | None = None) -> Intrinsics:
    """Reads a camera file.

    Args:
        path: JSON with fx, fy, cx, cy (pixels) and scale (metres for one unit of depth,
            0.001 with a warning where it is not there), or the camera file of MVTec
            3D-AD (HALCON's division model: focus, kappa, sx, sy, cx, cy; scale may be
            added). Width and height of its images, where it names them, are compared
            with those of depth images.
        unit: what is said elsewhere of the scale; None = nothing.

    Raises:
        DatasetError: a value is missing or is not a sensible number, or the scale is
            not that unit.
    """
    return intrinsics_in(path, read_table(path), unit)


def read_table(path: str | Path) -> dict[str, Any]:
    """Returns the table that a JSON file holds; raises DatasetError where it is none.

    A name that stands twice in a table is refused, since one would be dropped.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # editors begin so
        table = json.loads(text, object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(table, dict):
        raise DatasetError(f"{path}: expected a JSON table, found {table!r:.40}")
    return table


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{name} stands in it twice")
        table[name] = value
    return table


def intrinsics_in(where: str | Path, table: Any, unit: float | None) -> Intrinsics:
    """Returns the intrinsics of a table, see `read_intrinsics`; `where` is named."""
    found = _from_table(where, table)
    if "scale" not in table:
        if unit is None:
            logging.warning("%s: no scale; %g metres a unit is assumed", where, SCALE)
        return found._replace(scale=SCALE if unit is None else unit)
    if unit is not None and unit != found.scale:
        raise DatasetError(
            f"{where}: scale: expected the declared unit, {unit:g} metres, found "
            f"{found.scale:g}"
        )
    return found


def table_of(intrinsics: Intrinsics) -> dict[str, float]:
    """Returns the table of which `intrinsics_of` makes the same intrinsics."""
    return {n: x for n, x in intrinsics._asdict().items() if x is not None}


def intrinsics_of(
    camera: Intrinsics | Mapping[str, Any] | str | os.PathLike,
) -> Intrinsics:
    """Returns the intrinsics that a table or a file holds, see `read_intrinsics`."""
    if isinstance(camera, Intrinsics):
        return camera
    if isinstance(camera, Mapping):
        return _from_table("intrinsics", dict(camera))
    return read_intrinsics(camera)


def _from_table(path: str | Path, table: Any) -> Intrinsics:
    if not isinstance(table, dict):
        raise DatasetError(f"{path}: expected a JSON table, found {type(table)}")
    halcon = "focus" in table
    names, optional = PINHOLE, ("scale", *DISTORTION)
    if halcon:
        names, optional = HALCON, ("scale", "kappa")
    missing = [n for n in names if n not in table]
    if missing:
        raise DatasetError(
            f"{path}: expected {', '.join(PINHOLE)} (and scale), or MVTec's "
            f"{', '.join(HALCON)}; missing: {', '.join(missing)}"
        )
    strange = sorted(set(table) - {*names, *optional, *ROWS, *COLUMNS, *UNUSED})
    if strange:
        raise DatasetError(
            f"{path}: expected no other key than {', '.join((*names, *optional))}, "
            f"found {', '.join(map(str, strange))}"
        )
    number = {n: _number(path, n, table[n]) for n in names}
    scale = _number(path, "scale", table.get("scale", SCALE))
    if not 0 < scale <= 1:
        raise DatasetError(
            f"{path}: scale is the metres for one unit of depth (0.001 for "
            f"millimetres), expected within (0, 1], found {scale}"
        )
    rows, columns = _whole(path, table, ROWS), _whole(path, table, COLUMNS)
    if halcon:
        kappa = _number(path, "kappa", table.get("kappa", 0.0))
        sx, sy = number["sx"], number["sy"]
        fx, fy = number["focus"] / sx, number["focus"] / sy
        distortion = kappa * sx * sx, kappa * sy * sy
    else:
        fx, fy = number["fx"], number["fy"]
        distortion = (_number(path, n, table.get(n, 0.0)) for n in DISTORTION)
    middle = number["cx"], number["cy"]
    return Intrinsics(fx, fy, *middle, scale, *distortion, rows, columns)


def _whole(path: str | Path, table: Mapping[str, Any], names) -> int | None:
    """Returns the number of pixels that one of the names has, if any."""
    for name in names:
        if name in table:
            return int(_number(path, name, table[name]))
    return None


def metres(
    units: np.ndarray, scale: float, missing: Sequence[float] | None = None
) -> np.ndarray:
    """Returns distances [...] float32 from whole numbers of units.

    0 where unmeasured, which the numbers `missing` say, too; None = 65535 of units of
    16 bits.
    """
    if missing is None:
        missing = (MARK,) if units.dtype == np.uint16 else ()
    marked = np.isin(units, np.array(missing, np.float64))
    distances = units.astype(np.float64) * scale
    return np.where(marked, 0, distances).astype(np.float32)


def _number(path: str | Path, name: str, value) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    positive = name not in ("cx", "cy", "kappa", *DISTORTION)
    if not plain or not np.isfinite(value) or (positive and value <= 0):
        raise DatasetError(
            f"{path}: {name} must be a {'positive ' * positive}number, found {value!r}"
        )
    return float(value)


def xyz_from_depth(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Returns the points that a depth image shows, [H,W,3] float32 metres.

    Args:
        depth: [H,W] distances along the optical axis in metres, 0 where unmeasured.
        intrinsics: the camera; pixel centres have whole-numbered coordinates.

    A pixel (column, row) with offsets du, dv from the principal point lies at
    z * (du / fx, dv / fy, 1) / (1 + kappa r^2 for x and y alone), HALCON's
    `area_scan_division` camera (HALCON reference manual, camera calibration).

    Raises:
        DatasetError: the camera's images have another size.
    """
    expected = intrinsics.rows or depth.shape[0], intrinsics.columns or depth.shape[1]
    if depth.shape != expected:
        raise DatasetError(
            "depth: expected the size of the camera's images, "
            f"{expected[0]} x {expected[1]} (rows x columns), found "
            f"{depth.shape[0]} x {depth.shape[1]}"
        )
    rows, columns = np.indices(depth.shape, dtype=np.float64)
    du, dv = columns - intrinsics.cx, rows - intrinsics.cy
    stretch = 1 + intrinsics.kappa_x * du**2 + intrinsics.kappa_y * dv**2
    z = depth.astype(np.float64)
    x = z * du / (intrinsics.fx * stretch)
    y = z * dv / (intrinsics.fy * stretch)
    return np.stack([x, y, z], axis=-1).astype(np.float32)
