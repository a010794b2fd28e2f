"""Finds the samples of a class in the folder layout of MVTec 3D-AD or of MVTec AD.

mvtec_3d:
    <root>/<category>/{train,validation}/good/{rgb/NNN.png,xyz/NNN.tiff}
    <root>/<category>/test/{good,<defect>}/{rgb,xyz,gt}/NNN.*
    <root>/<category>/class_ids.json                          (optional)
    lists of points: xyz/NNN.{ply,pcd} and gt/NNN.txt, a line a point
mvtec_ad:
    <root>/<category>/{train/good,test/{good,<defect>}}/NNN.png
    <root>/<category>/ground_truth/<defect>/NNN_mask.png

Beside the folders of a split nothing else is read, and what lies there is named once.
Files are paired by stem, never by order. In mvtec_3d a class without any `xyz` folder
is one of images alone, one without any `rgb` folder one of points alone; in mvtec_ad
every class is of images alone, and there is no validation split.
"""

import json
from pathlib import Path
from typing import NamedTuple

from data_pipelines import clouds
from data_pipelines.errors import DatasetError
from data_pipelines.folders import entries, way_out

EXPECTED = __doc__
MVTEC_3D, MVTEC_AD = LAYOUTS = ("mvtec_3d", "mvtec_ad")
SPLITS = ("train", "validation", "test")
GOOD = "good"
GROUND_TRUTH, MASK_ENDING = "ground_truth", "_mask"  # of mvtec_ad
CLASS_IDS = "class_ids.json"
# Beside the splits of a class; what only people read, or other readers.
KNOWN = (CLASS_IDS, "calibration", "license.txt", "readme.txt")
SUFFIXES = {
    "rgb": (".png", ".jpg", ".jpeg", ".bmp"),
    "xyz": (".tiff", ".tif", *clouds.SUFFIXES),
    "gt": (".png", ".bmp", clouds.LABEL_SUFFIX),
}


class SampleFiles(NamedTuple):
    """The files of one sample; a file that is absent is None."""

    split: str
    defect: str
    stem: str
    rgb: Path | None
    xyz: Path | None
    gt: Path | None

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


class Layout(NamedTuple):
    """A class as found on disk."""

    root: Path
    category: str
    samples: tuple[SampleFiles, ...]  # complete ones, by (split, defect, stem)
    incomplete: tuple[SampleFiles, ...]  # those of which a file is missing
    faults: tuple[Fault, ...]
    class_ids: dict[int, str] | None  # value in a gt mask -> defect

    def split(self, name: str) -> tuple[SampleFiles, ...]:
        """Returns the samples of one split, in order."""
        return tuple(s for s in self.samples if s.split == name)


def categories(root: str | Path) -> list[str]:
    """Returns the sorted names of the folders in `root` that hold a `train` folder."""
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"data.root: {root} is not a folder")
    return sorted(p.name for p in root.iterdir() if (p / "train").is_dir())


def strangers(root: str | Path) -> list[Fault]:
    """Returns a warning for each file and folder in `root` that is no class."""
    message = "is no class: there is no folder train in it"
    return [
        Fault("not_read", str(path), message if path.is_dir() else "is not read", True)
        for path in entries(Path(root))
        if not (path / "train").is_dir() and path.name.lower() not in KNOWN
    ]


def category_folder(root: str | Path, category: str) -> Path:
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
        found = ", ".join(categories(root)) or "none"
        raise DatasetError(
            f"data.category: {folder} is not a folder; classes in {root}: {found}"
        )
    if folder.resolve().parent != root.resolve():
        raise DatasetError(
            f"data.category: {folder} leads out of {root}, to {folder.resolve()}"
        )
    return folder


def scan(root: str | Path, category: str, name: str = MVTEC_3D) -> Layout:
    """Lists the complete samples of a class and everything that is amiss.

    Args:
        root: folder that holds the classes.
        category: name of a class, a folder in `root`.
        name: one of `LAYOUTS`.

    Returns:
        The layout; samples are sorted by (split, defect, stem).

    Raises:
        DatasetError: the class is not there or its name leads out of `root`; or there
            is no such layout.
    """
    if name not in LAYOUTS:
        raise DatasetError(
            f"data.name: expected {' or '.join(LAYOUTS)}, found {name!r}"
        )
    folder = category_folder(root, category)
    flat = name == MVTEC_AD
    samples: list[SampleFiles] = []
    incomplete: list[SampleFiles] = []
    faults: list[Fault] = []
    there = [m for m in ("rgb", "xyz") if any(folder.glob(f"*/*/{m}"))]
    required = ("rgb",) if flat or not there else tuple(there)
    for split in ("test", "train") if flat else sorted(SPLITS):
        if not (folder / split).is_dir():
            message = f"the split {split} is missing; expected {folder / split}"
            faults.append(
                Fault("missing_split", str(folder / split), message, split != "train")
            )
            continue
        for defect in _defects(folder, split, faults):
            places = _places(folder, split, defect, flat)
            complete, partial = _pair(places, split, defect, required, faults)
            samples += complete
            incomplete += partial
            if not complete and not partial:
                _note_no_sample(folder / split / defect, faults)
    if flat:
        _note_stray_masks(folder, faults)
    _note_not_read(folder, flat, faults)
    _note_empty(folder, samples, faults, flat)
    class_ids = _class_ids(folder, faults)
    return Layout(
        Path(root),
        category,
        tuple(samples),
        tuple(incomplete),
        tuple(faults),
        class_ids,
    )


class _Place(NamedTuple):
    """Where the files of one modality lie, and how their names end."""

    folder: Path
    category: Path  # the folder of the class
    ending: str = ""  # of the name, before the suffix


def _places(folder: Path, split: str, defect: str, flat: bool) -> dict[str, _Place]:
    """Returns where each modality of a folder's samples lies."""
    place = folder / split / defect
    if not flat:
        return {modality: _Place(place / modality, folder) for modality in SUFFIXES}
    places = {"rgb": _Place(place, folder)}
    if split == "test":
        places["gt"] = _Place(folder / GROUND_TRUTH / defect, folder, MASK_ENDING)
    return places


def _note_stray_masks(folder: Path, faults: list[Fault]) -> None:
    """Adds the folders of masks, and files beside them, to which no images belong."""
    if not (folder / GROUND_TRUTH).is_dir():
        return
    for path in entries(folder / GROUND_TRUTH):
        if (folder / "test" / path.name).is_dir():
            continue
        message = f"no images belong to it; expected {folder / 'test' / path.name}"
        faults.append(Fault("extra_file", str(path), message))


def _note_no_sample(place: Path, faults: list[Fault]) -> None:
    """Adds a folder of samples that holds none; one with other things is a fault."""
    inside = entries(place)
    if inside or place.name != GOOD:
        held = f"; it holds {inside[0].name}" if inside else "; it is empty"
        message = f"no sample is taken of it{held}"
        faults.append(Fault("no_sample", str(place), message, not inside))


def _note_not_read(folder: Path, flat: bool, faults: list[Fault]) -> None:
    """Adds what lies beside what is read, once for each name."""
    known = {*SPLITS, *KNOWN} - ({"validation"} if flat else set())
    known |= {GROUND_TRUTH} if flat else set()
    ignored: dict[str, list[Path]] = {}
    for path in entries(folder):
        if path.name.lower() not in known:
            ignored.setdefault(path.name, []).append(path)
    for place in () if flat else sorted(folder.glob("*/*")):
        if place.parent.name not in SPLITS:
            continue
        for path in entries(place):
            if path.is_dir() and path.name not in _read(place.parent.name):
                ignored.setdefault(path.name, []).append(path)
    for paths in ignored.values():
        first = paths[0]
        more = f", nor are {len(paths) - 1} others of its name" * (len(paths) > 1)
        message = f"is not read{more}"
        if first.parent != folder:
            message += f"; expected {', '.join(_read(first.parent.parent.name))}"
        faults.append(Fault("not_read", str(first), message, True))


def _read(split: str) -> tuple[str, ...]:
    """Returns the folders of a split's samples that are read: masks of test alone."""
    return tuple(name for name in SUFFIXES if split == "test" or name != "gt")


def _inside(path: Path, folder: Path, faults: list[Fault]) -> bool:
    """Returns whether a path may be read; adds it as a fault if it leads out.

    Args:
        path: of a file or folder of a class.
        folder: of the class, which lies in the root.
        faults: added to.
    """
    root = folder.parent
    target = way_out(path, root)
    if target is not None:
        message = f"leads out of {root}, to {target}; copy what lies there"
        faults.append(Fault("link", str(path), message))
        return False
    return True


def _defects(folder: Path, split: str, faults: list[Fault]) -> list[str]:
    names = []
    if not _inside(folder / split, folder, faults):
        return names
    for path in entries(folder / split):
        if not path.is_dir() or (split != "test" and path.name != GOOD):
            message = f"{split} may hold only the folder {GOOD}"
            if split == "test":
                message = "test may hold only folders"
            faults.append(Fault("extra_file", str(path), message))
        elif _inside(path, folder, faults):
            names.append(path.name)
    return names


def _files(place: _Place, modality: str, faults: list[Fault]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if not _inside(place.folder, place.category, faults):
        return found
    for path in entries(place.folder):
        stem = path.stem.removesuffix(place.ending)
        named = path.stem.endswith(place.ending) and stem
        if not _inside(path, place.category, faults):
            continue
        if not (named and path.is_file() and path.suffix.lower() in SUFFIXES[modality]):
            names = " or ".join(place.ending + suffix for suffix in SUFFIXES[modality])
            message = f"expected a file whose name ends in {names}"
            faults.append(Fault("extra_file", str(path), message))
        elif stem in found:
            message = f"has the same stem as {found[stem].name}"
            faults.append(Fault("extra_file", str(path), message))
        else:
            found[stem] = path
    return found


def _pair(
    places: dict[str, _Place],
    split: str,
    defect: str,
    required: tuple[str, ...],
    faults: list[Fault],
) -> tuple[list[SampleFiles], list[SampleFiles]]:
    files = {m: _files(place, m, faults) for m, place in places.items()}
    if "xyz" in places:  # of mvtec_3d, where files lie one folder deeper
        for path in entries(places["xyz"].folder.parent):
            if not path.is_dir():
                message = f"is not read; expected it in {', '.join(SUFFIXES)}"
                faults.append(Fault("extra_file", str(path), message))
    if split == "test" and defect != GOOD:
        required = (*required, "gt")
    complete: list[SampleFiles] = []
    incomplete: list[SampleFiles] = []
    for stem in sorted(set().union(*files.values())):
        found = {m: of_stem[stem] for m, of_stem in files.items() if stem in of_stem}
        missing = [m for m in required if m not in found]
        for modality in missing:
            folder, _, ending = places[modality]
            path = folder / (stem + ending + SUFFIXES[modality][0])
            message = f"{path} is missing; found {', '.join(map(str, found.values()))}"
            faults.append(Fault(f"missing_{modality}", str(path), message))
        sample = SampleFiles(split, defect, stem, *(found.get(m) for m in SUFFIXES))
        (incomplete if missing else complete).append(sample)
    return complete, incomplete


def _note_empty(
    folder: Path, samples: list[SampleFiles], faults: list[Fault], flat: bool
) -> None:
    if not any(s.split == "train" for s in samples):
        place = folder / "train" / GOOD
        message = f"no complete training sample in {place}"
        if flat and (place / "rgb").is_dir():
            message += f"; the folder rgb in it looks like {MVTEC_3D}: see data.name"
        elif not flat and any(place.glob("*.png")):
            message += f"; the images in it look like {MVTEC_AD}: see data.name"
        faults.append(Fault("empty_class", str(place), message))
    test = [s for s in samples if s.split == "test"]
    if test and all(s.defect == GOOD for s in test):
        message = f"no anomalous sample in {folder / 'test'}"
        faults.append(Fault("no_anomalies", str(folder / "test"), message, True))
    elif test and not any(s.defect == GOOD for s in test):
        message = f"no good sample in {folder / 'test'}"
        faults.append(Fault("no_good", str(folder / "test"), message, True))


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
