"""Finds the samples of a class in the MVTec 3D-AD folder layout.

    <root>/<category>/{train,validation}/good/{rgb/NNN.png,xyz/NNN.tiff}
    <root>/<category>/test/{good,<defect>}/{rgb,xyz,gt}/NNN.*
    <root>/<category>/class_ids.json                          (optional)

Files are paired by stem, never by order. A class without any `xyz` folder is one of
pictures alone.
"""

import json
from pathlib import Path
from typing import NamedTuple

from data_pipelines.errors import DatasetError

EXPECTED = __doc__
SPLITS = ("train", "validation", "test")
GOOD = "good"
SUFFIXES = {
    "rgb": (".png", ".jpg", ".jpeg", ".bmp"),
    "xyz": (".tiff", ".tif"),
    "gt": (".png", ".bmp"),
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


class Fault(NamedTuple):
    """What is wrong with one file or folder; a warning does not stop preprocessing."""

    kind: str  # missing_rgb, missing_xyz, missing_gt, extra_file, corrupt, ...
    path: str
    message: str
    warning: bool = False


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


def scan(root: str | Path, category: str) -> Layout:
    """Lists the complete samples of a class and everything that is amiss.

    Args:
        root: folder that holds the classes.
        category: name of a class, a folder in `root`.

    Returns:
        The layout; samples are sorted by (split, defect, stem).

    Raises:
        DatasetError: the class is not there or its name leads out of `root`.
    """
    folder = category_folder(root, category)
    samples: list[SampleFiles] = []
    incomplete: list[SampleFiles] = []
    faults: list[Fault] = []
    with_xyz = any(True for _ in folder.glob("*/*/xyz"))
    for split in sorted(SPLITS):
        if not (folder / split).is_dir():
            message = f"the split {split} is missing; expected {folder / split}"
            faults.append(
                Fault("missing_split", str(folder / split), message, split != "train")
            )
            continue
        for defect in _defects(folder / split, split, faults):
            place = folder / split / defect
            complete, partial = _pair(place, split, defect, with_xyz, faults)
            samples += complete
            incomplete += partial
    _note_empty(folder, samples, faults)
    class_ids = _class_ids(folder, faults)
    return Layout(
        Path(root),
        category,
        tuple(samples),
        tuple(incomplete),
        tuple(faults),
        class_ids,
    )


def _defects(folder: Path, split: str, faults: list[Fault]) -> list[str]:
    names = []
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.name.startswith("."):
            continue
        if not path.is_dir() or (split != "test" and path.name != GOOD):
            message = f"{split} may hold only the folder {GOOD}"
            if split == "test":
                message = "test may hold only folders"
            faults.append(Fault("extra_file", str(path), message))
        else:
            names.append(path.name)
    return names


def _files(folder: Path, modality: str, faults: list[Fault]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.name.startswith("."):
            continue
        if not path.is_file() or path.suffix.lower() not in SUFFIXES[modality]:
            message = f"expected a file named {' or '.join(SUFFIXES[modality])}"
            faults.append(Fault("extra_file", str(path), message))
        elif path.stem in found:
            message = f"has the same stem as {found[path.stem].name}"
            faults.append(Fault("extra_file", str(path), message))
        else:
            found[path.stem] = path
    return found


def _pair(
    folder: Path, split: str, defect: str, with_xyz: bool, faults: list[Fault]
) -> tuple[list[SampleFiles], list[SampleFiles]]:
    files = {m: _files(folder / m, m, faults) for m in SUFFIXES}
    required = ["rgb"]
    if with_xyz:
        required.append("xyz")
    if split == "test" and defect != GOOD:
        required.append("gt")
    complete: list[SampleFiles] = []
    incomplete: list[SampleFiles] = []
    for stem in sorted(set().union(*files.values())):
        missing = [m for m in required if stem not in files[m]]
        present = [str(files[m][stem]) for m in files if stem in files[m]]
        for modality in missing:
            place = folder / modality / (stem + SUFFIXES[modality][0])
            message = f"{place} is missing; found {', '.join(present)}"
            faults.append(Fault(f"missing_{modality}", str(place), message))
        paths = [files[m].get(stem) for m in SUFFIXES]
        sample = SampleFiles(split, defect, stem, *paths)
        (incomplete if missing else complete).append(sample)
    return complete, incomplete


def _note_empty(folder: Path, samples: list[SampleFiles], faults: list[Fault]) -> None:
    if not any(s.split == "train" for s in samples):
        place = folder / "train" / GOOD
        message = f"no complete training sample in {place}"
        faults.append(Fault("empty_class", str(place), message))
    test = [s for s in samples if s.split == "test"]
    if test and all(s.defect == GOOD for s in test):
        message = f"no anomalous sample in {folder / 'test'}"
        faults.append(Fault("no_anomalies", str(folder / "test"), message, True))
    elif test and not any(s.defect == GOOD for s in test):
        message = f"no good sample in {folder / 'test'}"
        faults.append(Fault("no_good", str(folder / "test"), message, True))


def _class_ids(folder: Path, faults: list[Fault]) -> dict[int, str] | None:
    path = folder / "class_ids.json"
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {int(value): str(name) for value, name in table.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        message = f"expected a JSON table of mask value to defect: {error}"
        faults.append(Fault("class_ids", str(path), message, True))
        return None
