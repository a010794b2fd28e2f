"""How the files of a class are named and what their numbers mean."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.camera import Intrinsics, read_intrinsics
from data_pipelines.errors import DatasetError

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "um": 1e-6}
# Of the camera's own axes, x to the right, y down and z forward: number and sign.
DIRECTIONS = {
    **{"right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1)},
    **{"forward": (2, 1), "back": (2, -1)},
}
AXES = ("right", "down", "forward")


class Sensor(NamedTuple):
    """How the files of a class are named and read; by default as MVTec 3D-AD has it."""

    images: str | None = "rgb"  # folder; None = there is none, or it is not read
    points: str | None = "xyz"
    depth: str | None = None  # in place of points
    masks: str | None = "gt"
    unit: float | None = None  # metres; None = 1, or of depth what the camera says
    missing: tuple[float, ...] | None = None  # None = as `plausible` judges by values
    axes: tuple[str, str, str] = AXES
    size: tuple[int, int] | None = None  # of lists of points; None = the image's
    intrinsics: Intrinsics | None = None  # of all depth images
    cameras: str | None = None  # or the folder with those of each sample

    @property
    def measured(self) -> str | None:
        """Returns the folder of points or of depth images."""
        return self.depth or self.points

    def camera(self, path: Path | None) -> Intrinsics:
        """Returns the intrinsics of all samples, or of the one whose file this is."""
        if path is not None:
            return read_intrinsics(path, self.unit)
        if self.intrinsics is None:
            raise DatasetError(
                f"intrinsics: expected one file a sample in the folder {self.cameras}"
            )
        return self.intrinsics


PLAIN = Sensor()


def in_metres(xyz: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Returns points as the camera sees them, in metres, from those of a file.

    Args:
        xyz: [...,3] float32 in the file's unit and along its axes.
        sensor: what the file means.

    Returns:
        [...,3] float32, x to the right, y down, z forward; (0,0,0) where the distance
        along the viewing direction is one of the values that mean unmeasured.
    """
    places, signs = zip(*(DIRECTIONS[word] for word in sensor.axes), strict=True)
    order = np.argsort(places)
    turned = xyz[..., order]
    missing = np.array(sensor.missing or (), np.float32)
    unmeasured = np.isin(turned[..., 2], missing)
    factor = np.array(signs, np.float64)[order] * (sensor.unit or 1.0)
    if (factor != 1).any():
        turned = (turned.astype(np.float64) * factor).astype(np.float32)
    return np.where(unmeasured[..., None], np.float32(0), turned)


def describe(sensor: Sensor) -> str:
    """Returns a sentence on how points or depth images are read."""
    words = []
    if sensor.depth:
        words.append(f"depth images of the folder {sensor.depth}")
        words.append(f"{sensor.unit:g} m a unit")
        if sensor.cameras:
            words.append(f"intrinsics of each sample in {sensor.cameras}")
        else:
            camera = sensor.intrinsics
            middle = f"cx {camera.cx:g}, cy {camera.cy:g}"
            words.append(f"fx {camera.fx:g}, fy {camera.fy:g}, {middle} pixels")
    elif sensor.points:
        words.append(f"points of the folder {sensor.points}")
        words.append(f"{sensor.unit or 1:g} m a unit")
        words.append(f"x {sensor.axes[0]}, y {sensor.axes[1]}, z {sensor.axes[2]}")
    else:
        words.append("no points")
    if sensor.missing:
        listed = ", ".join(f"{value:g}" for value in sensor.missing)
        words.append(f"unmeasured: {listed}")
    return "; ".join(words)
