"""What lies in the folders of a class and is not as expected, in sentences."""

from pathlib import Path

from data_pipelines.arrangements import (
    GROUND_TRUTH,
    MVTEC_3D,
    MVTEC_AD,
    PLAIN_FOLDERS,
    SPLITS,
    looks_plain,
)
from data_pipelines.folders import entries
from data_pipelines.pairing import GOOD, Fault, Group, SampleFiles, folders_of
from data_pipelines.sensor import PLAIN, Sensor
from data_pipelines.sensor_file import CAMERA, SENSOR

CLASS_IDS = "class_ids.json"
# Beside the splits of a class; what only people read, or other readers.
KNOWN = (CLASS_IDS, "calibration", "license.txt", "readme.txt", SENSOR)


def stray_masks(folder: Path, groups: list[Group], faults: list[Fault]) -> None:
    """Adds the folders of masks, and files beside them, to which no images belong."""
    apart = folder / GROUND_TRUTH
    masks = [group.places["gt"].folder for group in groups if "gt" in group.places]
    masks = [place for place in masks if place.is_relative_to(apart)]
    above = {p for m in masks for p in m.parents if p.is_relative_to(apart)}
    for place in sorted({apart, *above} - set(masks)):
        for path in entries(place):
            if path not in masks and path not in above:
                message = "no images belong to it; expected folders as of the samples"
                faults.append(Fault("extra_file", str(path), message))


def no_sample(group: Group, faults: list[Fault]) -> None:
    """Adds a folder of samples that holds none; one with other things is a fault."""
    held = entries(group.folder)
    if held or group.folder.name != GOOD:
        told = f"; it holds {held[0].name}" if held else "; it is empty"
        if any(path.is_dir() and _deeper(path) for path in held):
            told += ": folders of defects do not lie in each other; move it up"
        message = f"no sample is taken of it{told}"
        faults.append(Fault("no_sample", str(group.folder), message, not held))


def _deeper(place: Path) -> bool:
    return any(path.is_dir() for path in entries(place))


def not_read(
    folder: Path,
    groups: list[Group],
    sensor: Sensor | None,
    name: str,
    faults: list[Fault],
) -> None:
    """Adds what lies beside what is read, once for each name."""
    known = {*SPLITS, *KNOWN} - ({"validation"} if name == MVTEC_AD else set())
    known |= {GROUND_TRUTH} if name != MVTEC_3D else set()
    known |= {CAMERA} if sensor is not None and sensor.depth else set()
    known -= {SENSOR} if name == MVTEC_AD else set()
    told = {fault.path for fault in faults}
    ignored: dict[str, list[tuple[Path, str]]] = {}
    for path in entries(folder):
        a_group = name == PLAIN_FOLDERS and path.is_dir()
        if path.name.lower() not in known and not a_group:
            kind = path.name if path.is_dir() else path.suffix.lower()
            ignored.setdefault(kind, []).append((path, ""))
    for group in groups:
        if name == MVTEC_AD or not group.in_folders:
            continue
        read = folders_of(sensor or PLAIN, group.split).values()
        for path in entries(group.folder):
            if path.is_dir() and path.name not in read and str(path) not in told:
                expected = f"; expected {', '.join(read)}"
                ignored.setdefault(path.name, []).append((path, expected))
    for places in ignored.values():
        first, expected = places[0]
        kind = "name" if first.is_dir() else "kind"
        more = f", nor are {len(places) - 1} others of its {kind}" * (len(places) > 1)
        message = f"is not read{more}{expected}"
        if first.name == "depth" and sensor is None:
            message += (
                f"; depth images need {CAMERA} or {SENSOR} "
                "beside the splits, and no folder xyz"
            )
        elif expected and first.name not in ("gt", "camera"):
            message += f"; {SENSOR} says which folders are read"
        faults.append(Fault("not_read", str(first), message, True))


def declared(
    folder: Path, sensor: Sensor | None, there: list[str], faults: list[Fault]
) -> None:
    """Adds what a sensor declares and no folder of samples has."""
    for modality, name in folders_of(sensor or PLAIN, "train").items():
        usual = getattr(PLAIN, {"rgb": "images", "xyz": "points"}.get(modality, ""), "")
        if sensor is None or modality in there or name == usual:
            continue
        if modality in ("rgb", "xyz"):
            message = (
                f"the sensor has a folder {name}, and no folder of samples has one"
            )
            faults.append(Fault("not_there", str(folder), message))


def empty(
    folder: Path, samples: list[SampleFiles], faults: list[Fault], name: str
) -> None:
    """Adds splits without samples, and a test split that measures nothing."""
    if not any(s.split == "train" for s in samples):
        place = folder / "train" / GOOD
        message = f"no complete training sample in {place}"
        if name == PLAIN_FOLDERS:
            message = f"no complete good sample: expected a folder {GOOD} or train"
        elif name == MVTEC_AD and (place / "rgb").is_dir():
            message += f"; the folder rgb in it looks like {MVTEC_3D}: see data.name"
        elif name == MVTEC_3D and any(place.glob("*.png")):
            message += f"; the images in it look like {MVTEC_AD}: see data.name"
        elif name == MVTEC_3D and looks_plain(folder):
            message += f"; the folders look like {PLAIN_FOLDERS}: see data.name"
        faults.append(Fault("empty_class", str(place), message))
    test = [s for s in samples if s.split == "test"]
    if test and all(s.defect == GOOD for s in test):
        message = f"no anomalous sample in {folder / 'test'}"
        faults.append(Fault("no_anomalies", str(folder / "test"), message, True))
    elif test and not any(s.defect == GOOD for s in test):
        message = f"no good sample in {folder / 'test'}"
        faults.append(Fault("no_good", str(folder / "test"), message, True))
    if name == PLAIN_FOLDERS and not test:
        message = "no sample of test: all good samples are train"
        faults.append(Fault("missing_split", str(folder / "test"), message, True))
