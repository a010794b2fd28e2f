"""From a depth image to an organised point cloud, with the camera's parameters."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import DatasetError

PINHOLE = ("fx", "fy", "cx", "cy")
HALCON = ("focus", "sx", "sy", "cx", "cy")
# Keys that may stand beside them; those of the last row are not needed.
OPTIONAL = ("scale", "kappa")
UNUSED = ("camera_type", "image_width", "image_height", "width", "height", "model")


class Intrinsics(NamedTuple):
    """A pinhole camera, with radial distortion by the division model."""

    fx: float  # pixels
    fy: float  # pixels
    cx: float  # pixels, column of the principal point
    cy: float  # pixels, row of the principal point
    scale: float = 0.001  # metres for one unit of the depth image
    kappa_x: float = 0.0  # distortion by pixel: 1 + kappa_x du^2 + kappa_y dv^2
    kappa_y: float = 0.0


def read_intrinsics(path: str | Path) -> Intrinsics:
    """Reads a camera file.

    Args:
        path: JSON with fx, fy, cx, cy (pixels) and scale (metres for one unit of depth,
            default 0.001), or the camera file of MVTec 3D-AD (HALCON's division model:
            focus, kappa, sx, sy, cx, cy), to which scale may be added.

    Raises:
        DatasetError: a value is missing or is not a sensible number.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON: {error}") from error
    return _from_table(path, table)


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
    names = HALCON if "focus" in table else PINHOLE
    missing = [n for n in names if n not in table]
    if missing:
        raise DatasetError(
            f"{path}: expected {', '.join(PINHOLE)} (and scale), or MVTec's "
            f"{', '.join(HALCON)}; missing: {', '.join(missing)}"
        )
    strange = sorted(set(table) - {*PINHOLE, *HALCON, *OPTIONAL, *UNUSED})
    if strange:
        raise DatasetError(
            f"{path}: expected no other key than {', '.join((*names, *OPTIONAL))}, "
            f"found {', '.join(map(str, strange))}"
        )
    number = {n: _number(path, n, table[n]) for n in names}
    scale = _number(path, "scale", table.get("scale", 0.001))
    if not 0 < scale <= 1:
        raise DatasetError(
            f"{path}: scale is the metres for one unit of depth (0.001 for "
            f"millimetres), expected within (0, 1], found {scale}"
        )
    if "focus" in table:
        kappa = _number(path, "kappa", table.get("kappa", 0.0))
        sx, sy = number["sx"], number["sy"]
        fx, fy = number["focus"] / sx, number["focus"] / sy
        distortion = kappa * sx * sx, kappa * sy * sy
    else:
        fx, fy, distortion = number["fx"], number["fy"], (0.0, 0.0)
    return Intrinsics(fx, fy, number["cx"], number["cy"], scale, *distortion)


def _number(path: str | Path, name: str, value) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    positive = name not in ("cx", "cy", "kappa")
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
    """
    rows, columns = np.indices(depth.shape, dtype=np.float64)
    du, dv = columns - intrinsics.cx, rows - intrinsics.cy
    stretch = 1 + intrinsics.kappa_x * du**2 + intrinsics.kappa_y * dv**2
    z = depth.astype(np.float64)
    x = z * du / (intrinsics.fx * stretch)
    y = z * dv / (intrinsics.fy * stretch)
    return np.stack([x, y, z], axis=-1).astype(np.float32)
