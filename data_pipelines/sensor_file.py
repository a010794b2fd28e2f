"""What a class's files mean: `sensor.json`, declared once beside the data.

The file lies in the folder of the class or in the root of the classes; that of the
class counts alone. Every key may be left out:

    {
      "images": "rgb",             folder of the images; null = they are not read
      "points": "xyz",             folder of points: TIFF, PLY or PCD
      "depth": "depth",            in its place: folder of 16-bit depth images
      "masks": "gt",               folder of the masks; null = they are not read
      "unit": "mm",                of points or depth: m, cm, mm, um, or metres
      "missing": [0, 65535],       distances, in the file's unit, of unmeasured points
      "axes": ["right", "down", "forward"],  where x, y and z of points lead to
      "size": [480, 640],          rows and columns of PLY and PCD files without images
      "intrinsics": {"fx": 600, "fy": 600, "cx": 320, "cy": 240}
    }

`intrinsics` is the table of a camera file, see `camera.read_intrinsics`, the name of
such a file beside this one, or of a folder beside the images with one file a sample. It
is `camera.json` where that lies beside.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.camera import (
    Intrinsics,
    intrinsics_in,
    read_intrinsics,
    read_table,
    table_of,
)
from data_pipelines.errors import DatasetError
from data_pipelines.sensor import AXES, DIRECTIONS, UNITS, Sensor

SENSOR, CAMERA = "sensor.json", "camera.json"
MOST = 4096  # rows and columns, as of images
FAR = 1e300
KEYS = (
    *("images", "points", "depth", "masks"),
    *("unit", "missing", "axes", "size", "intrinsics"),
)


def declared(folder: Path) -> Sensor | None:
    """Returns what is declared in the folder of a class or in its root, if anything.

    Raises:
        DatasetError: a file cannot be read as what it should be; file and key are
            named.
    """
    for place in (folder, folder.parent):
        if (place / SENSOR).exists():
            return read_sensor(place / SENSOR)
    return None


def implied(folder: Path, depth: bool) -> Sensor | None:
    """Returns what a camera file beside folders of depth images says, if there is one.

    Args:
        folder: of a class.
        depth: whether there are folders of depth images, and none of points.
    """
    for place in (folder, folder.parent) if depth else ():
        if (place / CAMERA).exists():
            return of_camera(read_intrinsics(place / CAMERA))
    return None


def of_camera(intrinsics: Intrinsics) -> Sensor:
    """Returns what is read of depth images that lie in the folder `depth`."""
    return Sensor(
        points=None, depth="depth", unit=intrinsics.scale, intrinsics=intrinsics
    )


def read_sensor(path: str | Path) -> Sensor:
    """Reads a `sensor.json`, see the module.

    Raises:
        DatasetError: a key is unknown or its value is none of those that it may have.
    """
    path = Path(path)
    return of_table(path, read_table(path), path.parent)


def of_table(
    where: str | Path, table: Mapping[str, Any], beside: Path | None = None
) -> Sensor:
    """Returns what a table declares.

    Args:
        where: it stands, for errors.
        table: keys as in the module.
        beside: the folder in which a camera file may lie.

    Raises:
        DatasetError: see `read_sensor`.
    """
    strange = sorted(set(table) - set(KEYS))
    if strange:
        raise DatasetError(
            f"{where}: expected no other key than {', '.join(KEYS)}; found "
            f"{', '.join(strange)}"
        )
    if table.get("points") is not None and table.get("depth") is not None:
        raise DatasetError(f"{where}: expected points or depth, found both")
    names = {
        key: _folder(where, key, table[key])
        for key in ("images", "points", "depth", "masks")
        if key in table
    }
    if names.get("depth"):
        names["points"] = None
    found = Sensor(
        **names,
        unit=_unit(where, table.get("unit")),
        missing=_missing(where, table.get("missing")),
        axes=_axes(where, table.get("axes", AXES)),
        size=_size(where, table.get("size")),
    )
    _refuse_twice(where, found)
    if found.depth:
        return _with_intrinsics(where, found, table.get("intrinsics"), beside)
    if "intrinsics" in table:
        raise DatasetError(f"{where}: intrinsics belong to depth, found no key depth")
    return found


def to_table(sensor: Sensor) -> dict[str, Any]:
    """Returns the table of which `of_table` makes the same sensor, all keys in it."""
    table = {
        "images": sensor.images,
        "depth" if sensor.depth else "points": sensor.measured,
        "masks": sensor.masks,
        "unit": sensor.unit,
        "missing": None if sensor.missing is None else list(sensor.missing),
        "axes": list(sensor.axes),
        "size": None if sensor.size is None else list(sensor.size),
    }
    if sensor.depth:
        own = sensor.cameras
        table["intrinsics"] = table_of(sensor.intrinsics) if own is None else own
    optional = ("unit", "missing", "size")
    return {n: x for n, x in table.items() if n not in optional or x is not None}


def write_sensor(path: Path, sensor: Sensor) -> None:
    """Writes what is declared as a `sensor.json`, never over one that is there.

    Raises:
        DatasetError: there is one.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(to_table(sensor), indent=1) + "\n")
    except FileExistsError:
        raise DatasetError(
            f"{path}: is there already; remove it to write what is guessed"
        ) from None


def _with_intrinsics(
    where: str | Path, found: Sensor, given: Any, beside: Path | None
) -> Sensor:
    """Returns the sensor of depth images with its intrinsics, or where they lie."""
    if found.axes != AXES or found.size is not None:
        raise DatasetError(
            f"{where}: axes and size belong to points: those of depth images follow "
            "from the intrinsics"
        )
    if given is None and beside is not None and (beside / CAMERA).exists():
        given = CAMERA
    if given is None:
        raise DatasetError(
            f"{where}: depth needs intrinsics: expected the key intrinsics, or "
            f"{CAMERA} beside it"
        )
    if isinstance(given, Mapping):
        camera = intrinsics_in(f"{where}: intrinsics", dict(given), found.unit)
    elif isinstance(given, str) and given.endswith(".json") and beside is not None:
        name = _folder(where, "intrinsics", given)
        camera = read_intrinsics(beside / name, found.unit)
    else:
        cameras = _folder(where, "intrinsics", given)
        if found.unit is None:
            raise DatasetError(
                f"{where}: unit: expected one, beside intrinsics of each sample"
            )
        return found._replace(cameras=cameras)
    return found._replace(intrinsics=camera, unit=camera.scale)


def _wrong(where: str | Path, key: str, expected: str, found: Any) -> DatasetError:
    return DatasetError(f"{where}: {key}: expected {expected}, found {found!r}")


def _folder(where: str | Path, key: str, value: Any) -> str | None:
    if value is None and key != "intrinsics":
        return None
    if not isinstance(value, str) or Path(value).parts != (value,) or value == "..":
        expected = "the plain name of a folder beside the others"
        if key == "intrinsics":
            expected = "a table, the name of a .json file beside it, or of a folder"
        raise _wrong(where, key, expected, value)
    return value


def _unit(where: str | Path, value: Any) -> float | None:
    if value is None:
        return None
    known = UNITS.get(value) if isinstance(value, str) else value
    if not _number(known) or not 0 < known <= 1:
        expected = f"{', '.join(UNITS)}, or metres above 0 and at most 1"
        raise _wrong(where, "unit", expected, value)
    return float(known)


def _missing(where: str | Path, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(map(_number, value)):
        expected = "a list of numbers (NaN and 0 always mean unmeasured)"
        raise _wrong(where, "missing", expected, value)
    return tuple(map(float, value))


def _axes(where: str | Path, value: Any) -> tuple[str, str, str]:
    words = value if isinstance(value, list | tuple) else ()
    known = all(isinstance(word, str) and word in DIRECTIONS for word in words)
    if not known or {DIRECTIONS[word][0] for word in words} != {0, 1, 2}:
        expected = (
            "three of right or left, down or up, forward or back: where x, y and z "
            "lead to, as the camera sees them"
        )
        raise _wrong(where, "axes", expected, value)
    if len(words) != 3:
        raise _wrong(where, "axes", "three words", value)
    return tuple(words)


def _size(where: str | Path, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    numbers = value if isinstance(value, list | tuple) else ()
    whole = [type(n) is int and 1 < n <= MOST for n in numbers]
    if len(whole) != 2 or not all(whole):
        raise _wrong(where, "size", f"rows and columns, 2 to {MOST}", value)
    return tuple(numbers)


def _number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and -FAR < value < FAR  # NaN is not


def _refuse_twice(where: str | Path, sensor: Sensor) -> None:
    names = [n for n in (sensor.images, sensor.measured, sensor.masks) if n]
    if len(set(names)) < len(names):
        raise DatasetError(
            f"{where}: expected a folder of its own for each of images, points or "
            f"depth, and masks; found {', '.join(names)}"
        )
    if sensor.images is None and sensor.measured is None:
        raise DatasetError(f"{where}: expected images, points or depth; found none")
