"""Lists the samples of a folder without labels, and how their files are read.

    FOLDER/rgb/NAME.png, FOLDER/xyz/NAME.{tiff,ply,pcd}  or both in FOLDER itself
    FOLDER/rgb/NAME.png, FOLDER/depth/NAME.png, FOLDER/camera.json
    FOLDER/NAME.png                                      images alone
    FOLDER/xyz/NAME.{tiff,ply,pcd}, or in FOLDER itself  points alone
    FOLDER/depth/NAME.png                                depth images alone

Depth images have 16 bits, and pixels that fit those of the image. What a system's own
class declared of its sensor holds here, too; a `sensor.json` or `camera.json` in the
folder counts in its place, which is said where they differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging

from data_pipelines.camera import intrinsics_in, read_intrinsics, read_table
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.folders import entries
from data_pipelines.pairing import SUFFIXES, suffixes
from data_pipelines.recipes import RECIPES
from data_pipelines.sensor import PLAIN, Sensor, describe
from data_pipelines.sensor_file import CAMERA, SENSOR, of_camera, read_sensor

SHOWN = 5  # files that are not read
EXPECTED = __doc__


class Listed(NamedTuple):
    """The files of a sample; one that is absent, or not needed, is None."""

    name: str  # the stem of the first file, with its ending where that is not enough
    image: Path | None
    points: Path | None
    camera: Path | None  # intrinsics of this one sample

    @property
    def first(self) -> Path:
        """Returns the file that stands for the sample."""
        return self.points if self.image is None else self.image


class Listing(NamedTuple):
    """The samples of a folder, by name, and how they are read."""

    samples: tuple[Listed, ...]
    sensor: Sensor
    left_out: tuple[CorruptSampleError, ...]  # of stems without one file of each kind


def list_folder(
    folder: str | Path,
    recipe: str,
    needs: Iterable[str],
    sensor: Sensor | None = None,
) -> Listing:
    """Finds the samples of a folder without reading them; says what is not read.

    Args:
        folder: see the module.
        recipe: a name of `recipes.RECIPES`.
        needs: names of batch fields; points are listed only if a name other than rgb is
            among them or the recipe needs points, and must then be there.
        sensor: what the class that a system was fitted on declared; None = nothing.

    Raises:
        DatasetError: there are no images, or points are needed and missing; or what is
            declared in the folder is wrong.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"input: {folder} is not a folder")
    if recipe not in RECIPES:
        raise DatasetError(
            f"recipe: expected one of {sorted(RECIPES)}, found {recipe!r}"
        )
    reasons = needs_points(recipe, needs)
    sensor, declared = _sensor_of(folder, sensor, bool(reasons))
    images: dict[str, list[Path]] = {}
    if sensor.images is not None:
        images = _by_stem(folder, sensor.images, SUFFIXES["rgb"])
    points: dict[str, list[Path]] = {}
    if sensor.measured is not None:
        alone = (folder / sensor.measured).is_dir() or not sensor.depth
        ending = suffixes(sensor, "xyz")
        points = _by_stem(folder, sensor.measured, ending) if alone else {}
    first = points if not images and "rgb" not in needs else images
    names = [name for name, files in first.items() for _ in files]
    if not names:
        raise DatasetError(f"input: no images in {folder}; expected\n{EXPECTED}")
    missing = [name for name in names if name not in points]
    if reasons and len(missing) == len(names):
        raise DatasetError(
            f"input: {', '.join(reasons)} needs points, and there are none for "
            f"{images[missing[0]][0]} and {len(missing) - 1} others; expected\n"
            f"{EXPECTED}"
        )
    cameras = {}
    if reasons and sensor.cameras:
        cameras = {name: folder / sensor.cameras / f"{name}.json" for name in names}
    twins = _twins(images) | (_twins(points) if reasons else {})
    refused = _incomplete(first, points, cameras) | twins if reasons else {}
    samples = []
    for stem, found in first.items():
        for path in found if stem not in refused else ():
            name = path.name if twins and not reasons else stem
            image = path if first is images else None
            own = points[stem][0] if reasons else None
            samples.append(Listed(name, image, own, cameras.get(stem)))
    used = [*declared, *cameras.values(), *(p for each in first.values() for p in each)]
    _tell_not_read(folder, [*used, *(p for n in names for p in points.get(n, ()))])
    return Listing(tuple(samples), sensor, tuple(refused.values()))


def needs_points(recipe: str, needs: Iterable[str]) -> list[str]:
    """Returns what needs points: batch fields other than rgb, the recipe itself."""
    reasons = sorted(set(needs) - {"rgb"})
    return [*reasons, f"recipe {recipe}"] if RECIPES[recipe].needs_xyz else reasons


def _sensor_of(
    folder: Path, fitted: Sensor | None, points: bool
) -> tuple[Sensor, list[Path]]:
    """Returns how a folder is read, and the files that say it.

    What lies in the folder counts, then what was fitted where its folders are there,
    then the usual names.
    """
    if (folder / SENSOR).exists():
        found = read_sensor(folder / SENSOR)
        if fitted is not None and found != fitted:
            logging.warning(
                "%s counts in place of the fit's declaration: %s; it was: %s",
                *(folder / SENSOR, describe(found), describe(fitted)),
            )
        beside = [folder / SENSOR, folder / CAMERA]
        return found, beside if found.depth else beside[:1]
    if fitted is not None and _fits(folder, fitted):
        if fitted.depth and not fitted.cameras and (folder / CAMERA).exists():
            return _with_camera(folder / CAMERA, fitted), [folder / CAMERA]
        return fitted, []
    usual = PLAIN
    alone = not _by_stem(folder, "xyz", SUFFIXES["xyz"])
    if alone and points and (folder / "depth").is_dir():
        usual = of_camera(read_intrinsics(folder / CAMERA))
    if fitted is not None and points:
        logging.warning(
            "%s: its folders are not those of the fit: %s; it was: %s",
            *(folder, describe(usual), describe(fitted)),
        )
    return usual, [folder / CAMERA] if usual.depth else []


def _fits(folder: Path, sensor: Sensor) -> bool:
    """Returns whether a folder holds what a sensor's declaration is about."""
    if sensor.depth or sensor.measured is None:
        return sensor.measured is None or (folder / sensor.depth).is_dir()
    other = (folder / PLAIN.points).is_dir() or (folder / "depth").is_dir()
    return (folder / sensor.points).is_dir() or not other


def _with_camera(path: Path, fitted: Sensor) -> Sensor:
    """Returns what was fitted with the intrinsics that lie beside the samples."""
    table = read_table(path)
    found = intrinsics_in(path, table, None if "scale" in table else fitted.unit)
    if found != fitted.intrinsics:
        logging.warning("%s counts in place of the fit's camera", path)
    return fitted._replace(intrinsics=found, unit=found.scale)


def _by_stem(
    folder: Path, name: str, endings: tuple[str, ...]
) -> dict[str, list[Path]]:
    place = folder / name if (folder / name).is_dir() else folder
    found: dict[str, list[Path]] = {}
    for path in entries(place):
        if path.suffix.lower() in endings:
            found.setdefault(path.stem, []).append(path)
    return found


def _incomplete(
    first: Mapping[str, Sequence[Path]],
    points: Mapping[str, Sequence[Path]],
    cameras: Mapping[str, Path],
) -> dict[str, CorruptSampleError]:
    """Returns what is said of each stem without points or its camera's intrinsics."""
    found = {}
    for stem, paths in first.items():
        if stem not in points:
            found[stem] = CorruptSampleError(paths[0], "has no points of its name")
        elif stem in cameras and not cameras[stem].is_file():
            reason = "expected the intrinsics of its camera, found no such file"
            found[stem] = CorruptSampleError(cameras[stem], reason)
    return found


def _twins(files: Mapping[str, Sequence[Path]]) -> dict[str, CorruptSampleError]:
    """Returns what is said of each stem that more than one file has."""
    expected = "expected one file of each kind for a sample, found"
    return {
        stem: CorruptSampleError(
            paths[0], f"{expected} {' and '.join(path.name for path in paths)}"
        )
        for stem, paths in files.items()
        if len(paths) > 1
    }


def _tell_not_read(folder: Path, used: Iterable[Path]) -> None:
    """Logs what lies beside the files that are used, folders as a whole."""
    used = set(used)
    places = {folder, *(path.parent for path in used)}
    left = [
        path
        for place in sorted(places)
        for path in entries(place)
        if path not in used and path not in places
    ]
    if left:
        shown = ", ".join(str(path.relative_to(folder)) for path in left[:SHOWN])
        more = f" and {len(left) - SHOWN} more" * (len(left) > SHOWN)
        logging.warning("%s: not read: %s%s", folder, shown, more)
