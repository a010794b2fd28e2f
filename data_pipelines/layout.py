"""Finds the samples of a class in one of three layouts of folders.

mvtec_3d:
    <root>/<category>/{train,validation}/good/{rgb/NNN.png,xyz/NNN.tiff}
    <root>/<category>/test/{good,<defect>}/{rgb,xyz,gt}/NNN.*
    <root>/<category>/class_ids.json                          (optional)
    lists of points: xyz/NNN.{ply,pcd} and gt/NNN.txt, a line a point
    depth images: depth/NNN.png in place of xyz, with camera.json beside the splits
mvtec_ad:
    <root>/<category>/{train/good,test/{good,<defect>}}/NNN.png
    <root>/<category>/ground_truth/<defect>/NNN_mask.png
plain:
    <root>/<category>/{good,<defect>,<defect>/<defect>}/NNN.png
    <root>/<category>/{good,<defect>}/{rgb,xyz,depth,gt}/NNN.*
    <root>/<category>/ground_truth/<defect>/NNN_mask.png      (optional)

Folders named otherwise, other units and axes, and the camera of depth images are
declared in sensor.json, see `sensor_file`. In plain there may be folders train,
validation and test, too; else a fifth of the good samples is test. Beside these
folders nothing else is read, and what lies there is named once.

Files are paired by stem, never by order. A class without any folder of points is one of
images alone, one without any image one of points alone. In mvtec_ad every class is of
images alone, and there is no validation split. A class of which no defective sample has
a mask has metrics of images alone.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines import amiss, sensor_file
from data_pipelines.amiss import CLASS_IDS, KNOWN
from data_pipelines.arrangements import (
    ARRANGEMENTS,
    MVTEC_3D,
    MVTEC_AD,
    PLAIN_FOLDERS,
    looks_plain,
)
from data_pipelines.errors import DatasetError
from data_pipelines.folders import entries
from data_pipelines.pairing import (
    GOOD,
    Fault,
    SampleFiles,
    files_of,
    pair,
)
from data_pipelines.remarks import NO_MASKS
from data_pipelines.sensor import PLAIN, Sensor

EXPECTED = __doc__
LAYOUTS = tuple(ARRANGEMENTS)
TEST_SHARE = 0.2  # of the good samples of plain folders that are divided


class Layout(NamedTuple):
    """A class as found on disk."""

    root: Path
    category: str
    samples: tuple[SampleFiles, ...]  # complete ones, by (split, defect, stem)
    incomplete: tuple[SampleFiles, ...]  # those of which a file is missing
    faults: tuple[Fault, ...]
    class_ids: dict[int, str] | None  # value in a gt mask -> defect
    sensor: Sensor | None = None  # what is declared; None = nothing

    def split(self, name: str) -> tuple[SampleFiles, ...]:
        """Returns the samples of one split, in order."""
        return tuple(s for s in self.samples if s.split == name)


def categories(root: str | Path, name: str = MVTEC_3D) -> list[str]:
    """Returns the sorted names of the folders in `root` that are classes.

    These hold a folder train or, in the layout plain, one of good samples.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"data.root: {root} is not a folder")
    return sorted(p.name for p in root.iterdir() if _is_class(p, name))


def _is_class(folder: Path, name: str) -> bool:
    plain = name == PLAIN_FOLDERS and folder.is_dir() and looks_plain(folder)
    return plain or (folder / "train").is_dir()


def strangers(root: str | Path, name: str = MVTEC_3D) -> list[Fault]:
    """Returns a warning for each file and folder in `root` that is no class."""
    faults, root = [], Path(root)
    depth = any(any(root.glob(f"{way}/depth")) for way in ("*/*", "*/*/*"))
    known = {*KNOWN, sensor_file.CAMERA} if depth else {*KNOWN}
    known -= {sensor_file.SENSOR} if name == MVTEC_AD else set()
    for path in entries(root):
        if _is_class(path, name) or path.name.lower() in known:
            continue
        message = "is not read"
        if path.is_dir():
            message = "is no class: there is no folder train in it"
            if name == PLAIN_FOLDERS:
                message += f", and none named {GOOD}"
            elif looks_plain(path):
                message += ", but one of good samples as plain has it: see --name"
        faults.append(Fault("not_read", str(path), message, True))
    return faults


def category_folder(root: str | Path, category: str, name: str = MVTEC_3D) -> Path:
    """Returns the folder of a class.

    Raises:
        DatasetError: the name is not that of a folder directly inside `root`, be it by
            `..`, by an absolute name or by a symbolic link that leads out.
    """
    root = Path(root)
    parts = Path(category).parts
    if len(parts) != 1 or category in ("", ".", "..") or "\0" in category:
        raise DatasetError(
            f"data.category: expected the plain name of a folder in {root}, found "
            f"{category!r}"
        )
    folder = root / category
    if not folder.is_dir():
        found = ", ".join(categories(root, name)) or "none"
        raise DatasetError(
            f"data.category: {folder} is not a folder; classes in {root}: {found}"
            f"{itself_a_class(root)}"
        )
    if folder.resolve().parent != root.resolve():
        raise DatasetError(
            f"data.category: {folder} leads out of {root}, to {folder.resolve()}"
        )
    return folder


def itself_a_class(root: Path) -> str:
    """Returns advice where a root looks like one of the classes that it should hold."""
    if not (looks_plain(root) or (root / "train").is_dir()):
        return ""
    return f"; {root} itself looks like a class: its root is the folder above it"


def scan(root: str | Path, category: str, name: str = MVTEC_3D) -> Layout:
    """Lists the complete samples of a class and everything that is amiss.

    Args:
        root: folder that holds the classes.
        category: name of a class, a folder in `root`.
        name: one of `LAYOUTS`.

    Returns:
        The layout; samples are sorted by (split, defect, stem).

    Raises:
        DatasetError: the class is not there or its name leads out of `root`; there is
            no such layout; or what is declared of the sensor is wrong.
    """
    if name not in LAYOUTS:
        raise DatasetError(
            f"data.name: expected {' or '.join(LAYOUTS)}, found {name!r}"
        )
    folder = category_folder(root, category, name)
    faults: list[Fault] = []
    sensor = None if name == MVTEC_AD else _sensor_of(folder)
    groups = ARRANGEMENTS[name](folder, sensor or PLAIN, faults)
    files = [files_of(group, faults) for group in groups]
    there = [m for m in ("rgb", "xyz") if any(found.get(m) for found in files)]
    required = tuple(there) or ("rgb",)
    if "xyz" in there and sensor is not None and sensor.cameras:
        required = (*required, "camera")
    masked = any(
        found.get("gt")
        for group, found in zip(groups, files, strict=True)
        if group.wants_masks
    )
    samples: list[SampleFiles] = []
    incomplete: list[SampleFiles] = []
    shared: list[SampleFiles] = []
    for group, found in zip(groups, files, strict=True):
        needed = (*required, "gt") if masked and group.wants_masks else required
        complete, partial = pair(group, found, needed, sensor or PLAIN, faults)
        (shared if group.shared else samples).extend(complete)
        incomplete += partial
        if not complete and not partial:
            amiss.no_sample(group, faults)
    samples += _divided(folder, shared, faults)
    samples.sort(key=lambda files: files[:3])
    _note_equal_names(folder, samples, faults)
    if name != MVTEC_3D:
        amiss.stray_masks(folder, groups, faults)
    amiss.not_read(folder, groups, sensor, name, faults)
    amiss.declared(folder, sensor, there, faults)
    amiss.empty(folder, samples, faults, name)
    if not masked and any(s.split == "test" and s.defect != GOOD for s in samples):
        faults.append(Fault("no_masks", str(folder), NO_MASKS, True))
    class_ids = _class_ids(folder, faults)
    return Layout(
        Path(root),
        category,
        tuple(samples),
        tuple(incomplete),
        tuple(dict.fromkeys(faults)),
        class_ids,
        sensor,
    )


def _sensor_of(folder: Path) -> Sensor | None:
    """Returns what is declared of a class, or what its depth images imply."""
    found = sensor_file.declared(folder)
    if found is not None:
        return found
    names = {p.name for depth in ("*/*", "*/*/*") for p in folder.glob(depth)}
    return sensor_file.implied(folder, "depth" in names and "xyz" not in names)


def _divided(
    folder: Path, samples: Sequence[SampleFiles], faults: list[Fault]
) -> list[SampleFiles]:
    """Returns good samples, some of which are test: by their names' digests.

    So a sample that is added moves few others.
    """
    count = max(1, round(TEST_SHARE * len(samples))) if len(samples) > 1 else 0

    def digest(files: SampleFiles) -> str:
        name = files.stem.encode("utf-8", "surrogateescape")
        return hashlib.sha256(name).hexdigest()

    chosen = {files.stem for files in sorted(samples, key=digest)[:count]}
    if samples:
        message = (
            f"{count} of {len(samples)} good samples are test and the others train, "
            "chosen by the SHA-256 of their names; folders train/good and test/good "
            "say it otherwise"
        )
        faults.append(Fault("divided", str(folder), message, True))
    return [f._replace(split="test") if f.stem in chosen else f for f in samples]


def _note_equal_names(
    folder: Path, samples: list[SampleFiles], faults: list[Fault]
) -> None:
    """Adds samples of two folders that have one name, and leaves out the second."""
    seen: set[str] = set()
    for files in list(samples):
        if files.key in seen:
            path = getattr(files, files.first)
            message = f"another sample has its name, {files.key}"
            faults.append(Fault("extra_file", str(path), message))
            samples.remove(files)
        seen.add(files.key)


def _class_ids(folder: Path, faults: list[Fault]) -> dict[int, str] | None:
    path = folder / CLASS_IDS
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {int(value): str(name) for value, name in table.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        message = f"expected a JSON table of mask value to defect: {error}"
        faults.append(Fault("class_ids", str(path), message, True))
        return None
