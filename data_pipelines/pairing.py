"""Pairs the files of samples by stem, and names what cannot be paired."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from data_pipelines import clouds
from data_pipelines.folders import entries, way_out
from data_pipelines.sensor import PLAIN, Sensor

GOOD = "good"
SUFFIXES = {
    "rgb": (".png", ".jpg", ".jpeg", ".bmp"),
    "xyz": (".tiff", ".tif", *clouds.SUFFIXES),
    "gt": (".png", ".bmp", clouds.LABEL_SUFFIX),
    "camera": (".json",),
}
DEPTH_SUFFIXES = (".png", ".tif", ".tiff")  # of xyz, where it is a depth image
FILES = tuple(SUFFIXES)  # names of the files that a sample may have


class SampleFiles(NamedTuple):
    """The files of one sample, and how they are read; a file that is absent is None."""

    split: str
    defect: str
    stem: str
    rgb: Path | None
    xyz: Path | None  # points, or the depth image of a sensor that has them
    gt: Path | None
    camera: Path | None = None  # intrinsics of this one sample
    sensor: Sensor = PLAIN

    @property
    def key(self) -> str:
        """Returns `split/defect/stem`."""
        return f"{self.split}/{self.defect}/{self.stem}"

    @property
    def first(self) -> str:
        """Returns the modality that stands for the sample: rgb, else xyz."""
        return "xyz" if self.rgb is None else "rgb"


class Fault(NamedTuple):
    """What is wrong with one file or folder; a warning does not stop preprocessing."""

    kind: str  # missing_rgb, missing_xyz, missing_gt, extra_file, corrupt, ...
    path: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        """Returns a sentence that names the kind and the path."""
        where = "" if self.path in self.message else f"{self.path}: "
        return f"{self.kind}: {where}{self.message}"


class Place(NamedTuple):
    """Where the files of one modality lie, and how their names end."""

    folder: Path
    suffixes: tuple[str, ...]
    ending: str = ""  # of the name, before the suffix
    others: tuple[str, ...] = ()  # suffixes of other modalities in the same folder


class Group(NamedTuple):
    """A folder whose samples are of one split and one defect."""

    category: Path  # the folder of the class
    folder: Path
    split: str
    defect: str
    places: Mapping[str, Place]  # by modality
    prefix: str = ""  # of the samples' names
    shared: bool = False  # its samples are divided among train and test

    @property
    def in_folders(self) -> bool:
        """Returns whether each modality has a folder of its own."""
        return all(place.folder != self.folder for place in self.places.values())

    @property
    def wants_masks(self) -> bool:
        """Returns whether its samples are defective ones, of the test split."""
        return self.split == "test" and self.defect != GOOD


def suffixes(sensor: Sensor, modality: str) -> tuple[str, ...]:
    """Returns how the files of a modality may end."""
    depth = modality == "xyz" and sensor.depth
    return DEPTH_SUFFIXES if depth else SUFFIXES[modality]


def folders_of(sensor: Sensor, split: str) -> dict[str, str]:
    """Returns the names of the folders that are read of a split, by modality."""
    named = {
        "rgb": sensor.images,
        "xyz": sensor.measured,
        "gt": sensor.masks if split == "test" else None,
        "camera": sensor.cameras,
    }
    return {modality: name for modality, name in named.items() if name}


def inside(path: Path, category: Path, faults: list[Fault]) -> bool:
    """Returns whether a path may be read; adds it as a fault if it leads out.

    Args:
        path: of a file or folder of a class.
        category: folder of the class, which lies in the root.
        faults: added to.
    """
    root = category.parent
    target = way_out(path, root)
    if target is not None:
        message = f"leads out of {root}, to {target}; copy what lies there"
        faults.append(Fault("link", str(path), message))
        return False
    return True


def files_of(group: Group, faults: list[Fault]) -> dict[str, dict[str, Path]]:
    """Returns the files of a group by modality and stem; adds what is none of them."""
    found = {m: _files(group, place, faults) for m, place in group.places.items()}
    if group.in_folders:
        expected = ", ".join(place.folder.name for place in group.places.values())
        for path in entries(group.folder):
            if not path.is_dir():
                message = f"is not read; expected it in {expected}"
                faults.append(Fault("extra_file", str(path), message))
    return found


def _files(group: Group, place: Place, faults: list[Fault]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if not inside(place.folder, group.category, faults):
        return found
    for path in entries(place.folder):
        stem = path.stem.removesuffix(place.ending)
        named = path.stem.endswith(place.ending) and stem
        suffix = path.suffix.lower()
        if path.is_file() and suffix in place.others:
            continue
        if not inside(path, group.category, faults):
            continue
        if not (named and path.is_file() and suffix in place.suffixes):
            known = (*place.suffixes, *place.others)
            names = " or ".join(place.ending + each for each in sorted(known))
            message = f"expected a file whose name ends in {names}"
            if path.is_dir():
                message += ", found a folder: folders of samples do not hold others"
            faults.append(Fault("extra_file", str(path), message))
        elif stem in found:
            message = f"has the same stem as {found[stem].name}"
            faults.append(Fault("extra_file", str(path), message))
        else:
            found[stem] = path
    return found


def pair(
    group: Group,
    files: Mapping[str, Mapping[str, Path]],
    required: tuple[str, ...],
    sensor: Sensor,
    faults: list[Fault],
) -> tuple[list[SampleFiles], list[SampleFiles]]:
    """Returns the complete and the incomplete samples of a group, by stem.

    Args:
        group: where they lie.
        files: of `files_of`.
        required: modalities that each must have.
        sensor: how they are read.
        faults: gets each file that is missing.
    """
    complete: list[SampleFiles] = []
    incomplete: list[SampleFiles] = []
    for stem in sorted(set().union(*files.values())):
        found = {m: of_stem[stem] for m, of_stem in files.items() if stem in of_stem}
        missing = [m for m in required if m not in found]
        for modality in missing:
            path = group.folder / stem
            if place := group.places.get(modality):
                path = place.folder / (stem + place.ending + place.suffixes[0])
            message = f"{path} is missing; found {', '.join(map(str, found.values()))}"
            faults.append(Fault(f"missing_{modality}", str(path), message))
        sample = SampleFiles(
            *(group.split, group.defect, group.prefix + stem),
            *(found.get(m) for m in FILES),
            sensor,
        )
        (incomplete if missing else complete).append(sample)
    return complete, incomplete
