"""The arrangements of a class's folders: which samples are of which split and defect.

Each returns the groups of a class, and adds what is amiss to the faults.
"""

from pathlib import Path

from data_pipelines.folders import entries
from data_pipelines.pairing import (
    GOOD,
    SUFFIXES,
    Fault,
    Group,
    Place,
    folders_of,
    inside,
    suffixes,
)
from data_pipelines.sensor import Sensor

MVTEC_3D, MVTEC_AD, PLAIN_FOLDERS = "mvtec_3d", "mvtec_ad", "plain"
SPLITS = ("train", "validation", "test")
GROUND_TRUTH, MASK_ENDING = "ground_truth", "_mask"  # of mvtec_ad and plain
# In lower case: folders of good samples, of the layout plain.
GOOD_NAMES = (GOOD, "ok", "normal")
MASKS = ("gt", "mask", "masks")


def mvtec_3d(folder: Path, sensor: Sensor, faults: list[Fault]) -> list[Group]:
    """Returns the groups of a class whose samples lie in folders of each modality."""
    return [
        _in_folders(folder, folder / split / defect, split, defect, sensor)
        for split in _splits(folder, sorted(SPLITS), faults)
        for defect in _defects(folder, split, faults)
    ]


def mvtec_ad(folder: Path, sensor: Sensor, faults: list[Fault]) -> list[Group]:
    """Returns the groups of a class of images, whose masks lie apart from them."""
    del sensor
    return [
        _together(folder, folder / split / defect, split, defect)
        for split in _splits(folder, ["test", "train"], faults)
        for defect in _defects(folder, split, faults)
    ]


def plain(folder: Path, sensor: Sensor, faults: list[Fault]) -> list[Group]:
    """Returns the groups of a class of folders good and of defects, or of any split.

    Good samples beside the splits are train, unless there is a split train; without a
    split test they are shared with it where there are defective samples.
    """
    tops = [path for path in _tops(folder) if inside(path, folder, faults)]
    for path in [p for p in tops if p.name in _apart(sensor)]:
        message = (
            f"is not read: expected folders {GOOD} and of defects, with such a folder "
            f"in each, or masks as {GROUND_TRUTH}/DEFECT/NAME{MASK_ENDING}.png"
        )
        faults.append(Fault("extra_file", str(path), message))
        tops.remove(path)
    good = [path for path in tops if is_good(path.name)]
    bad = [path for path in tops if path not in good]
    groups: list[Group] = []
    for split in [s for s in SPLITS if (folder / s).is_dir()]:
        if inside(folder / split, folder, faults):
            groups += _plain_split(folder, split, sensor, faults)
    there = {group.split for group in groups}
    for place in bad:
        groups += _below(folder, place, "test", place.name, sensor, faults)
    if good and {"train", "test"} <= there:
        message = "is not read: there are folders train and test; move it into one"
        faults += [Fault("extra_file", str(path), message) for path in good]
        good = []
    split = "test" if "train" in there else "train"
    shared = "train" not in there and "test" not in there and bool(bad)
    for place in good:
        found = _below(folder, place, split, GOOD, sensor, faults)
        groups += [group._replace(shared=shared) for group in found]
    return groups


ARRANGEMENTS = {MVTEC_3D: mvtec_3d, MVTEC_AD: mvtec_ad, PLAIN_FOLDERS: plain}


def is_good(name: str) -> bool:
    """Returns whether a folder of the layout plain holds good samples, by its name."""
    return name.lower() in GOOD_NAMES


def looks_plain(folder: Path) -> bool:
    """Returns whether a folder beside the splits is named as one of good samples."""
    return any(is_good(path.name) for path in entries(folder) if path.is_dir())


def _tops(folder: Path) -> list[Path]:
    """Returns the folders of a class that are no split and hold no masks."""
    apart = (*SPLITS, GROUND_TRUTH, "calibration")
    return [p for p in entries(folder) if p.is_dir() and p.name not in apart]


def _apart(sensor: Sensor) -> set[str]:
    """Returns names of folders that no defect has: they hold one kind of files."""
    return {*folders_of(sensor, "test").values(), *MASKS, "rgb", "xyz", "depth"}


def _splits(folder: Path, names: list[str], faults: list[Fault]) -> list[str]:
    for split in names:
        if not (folder / split).is_dir():
            message = f"the split {split} is missing; expected {folder / split}"
            if split == "train" and looks_plain(folder):
                message += f"; the folders look like {PLAIN_FOLDERS}: see data.name"
            fault = Fault(
                "missing_split", str(folder / split), message, split != "train"
            )
            faults.append(fault)
    return [split for split in names if (folder / split).is_dir()]


def _defects(folder: Path, split: str, faults: list[Fault]) -> list[str]:
    names = []
    if not inside(folder / split, folder, faults):
        return names
    for path in entries(folder / split):
        if not path.is_dir() or (split != "test" and path.name != GOOD):
            message = f"{split} may hold only the folder {GOOD}"
            if split == "test":
                message = "test may hold only folders"
            faults.append(Fault("extra_file", str(path), message))
        elif is_good(path.name) and path.name != GOOD:  # defects, by the layout
            message = f"expected another name of a defect, or {GOOD} for good samples"
            faults.append(Fault("extra_file", str(path), message))
        elif inside(path, folder, faults):
            names.append(path.name)
    return names


def _in_folders(
    category: Path, place: Path, split: str, defect: str, sensor: Sensor
) -> Group:
    places = {
        modality: Place(place / name, suffixes(sensor, modality))
        for modality, name in folders_of(sensor, split).items()
    }
    return Group(category, place, split, defect, places)


def _together(
    category: Path, place: Path, split: str, defect: str, sensor: Sensor | None = None
) -> Group:
    """Returns a group of images that lie in its folder itself, or of points, too."""
    places = {"rgb": Place(place, SUFFIXES["rgb"])}
    if sensor is not None and sensor.points:
        places = {
            "rgb": Place(place, SUFFIXES["rgb"], others=SUFFIXES["xyz"]),
            "xyz": Place(place, SUFFIXES["xyz"], others=SUFFIXES["rgb"]),
        }
    if split == "test":
        way = place.relative_to(category).parts
        masks = category.joinpath(GROUND_TRUTH, *way[way[0] == split :])
        places["gt"] = Place(masks, SUFFIXES["gt"], MASK_ENDING)
    return Group(category, place, split, defect, places)


def _plain_split(
    folder: Path, split: str, sensor: Sensor, faults: list[Fault]
) -> list[Group]:
    """Returns the groups of a split: its folders, or itself where it holds samples."""
    place = folder / split
    if _holds_samples(place, sensor):
        if split != "test":
            return [_group(folder, place, split, GOOD, sensor)]
        message = f"holds samples itself; expected folders {GOOD} and of defects in it"
        faults.append(Fault("extra_file", str(place), message))
        return []
    groups: list[Group] = []
    for path in entries(place):
        defect = GOOD if is_good(path.name) else path.name
        if not path.is_dir() or (split != "test" and defect != GOOD):
            message = f"{split} may hold only good samples"
            if split == "test":
                message = "test may hold only folders"
            faults.append(Fault("extra_file", str(path), message))
        elif inside(path, folder, faults):
            groups += _below(folder, path, split, defect, sensor, faults)
    return groups


def _below(
    category: Path,
    place: Path,
    split: str,
    defect: str,
    sensor: Sensor,
    faults: list[Fault],
    prefix: str = "",
) -> list[Group]:
    """Returns the group of a folder, or those of the folders in it.

    These are other defects, named by the way to them, or good samples, whose names
    begin with it.
    """
    below = [path for path in entries(place) if path.is_dir()]
    if _holds_samples(place, sensor) or not below:
        group = _group(category, place, split, defect, sensor)
        return [group._replace(prefix=prefix)]
    groups: list[Group] = []
    for path in entries(place):
        if path not in below:
            message = "is not read; expected it in one of the folders beside it"
            faults.append(Fault("extra_file", str(path), message))
        elif inside(path, category, faults):
            name = defect if defect == GOOD else f"{defect}_{path.name}"
            own = f"{prefix}{path.name}_" if defect == GOOD else ""
            groups += _below(category, path, split, name, sensor, faults, own)
    return groups


def _group(
    category: Path, place: Path, split: str, defect: str, sensor: Sensor
) -> Group:
    names = folders_of(sensor, split).values()
    if any((place / name).is_dir() for name in names):
        return _in_folders(category, place, split, defect, sensor)
    return _together(category, place, split, defect, sensor)


def _holds_samples(place: Path, sensor: Sensor) -> bool:
    names = set(folders_of(sensor, "test").values())
    known = (*SUFFIXES["rgb"], *SUFFIXES["xyz"])
    return any(
        path.name in names if path.is_dir() else path.suffix.lower() in known
        for path in entries(place)
    )
