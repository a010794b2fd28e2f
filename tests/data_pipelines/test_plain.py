"""The layout plain: folders good and of defects, with and without splits and masks."""

import shutil

import numpy as np
import pytest
from PIL import Image

from data_pipelines.arrangements import PLAIN_FOLDERS
from data_pipelines.errors import DatasetError
from data_pipelines.layout import categories, scan, strangers
from data_pipelines.preprocess import prepare
from data_pipelines.validate import validate


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (24, 20, 3), np.uint8)
    Image.fromarray(colours).save(path)


def write(folder, **counts):
    """Writes pictures; folders are named with two underscores for a slash."""
    for number, (name, count) in enumerate(counts.items()):
        for k in range(count):
            place = folder / name.replace("__", "/")
            picture(place / f"{k:03d}.png", 1000 * number + k)
    return folder


@pytest.fixture
def part(tmp_path):
    return tmp_path / "data" / "part"


def found(folder):
    return scan(folder.parent, folder.name, PLAIN_FOLDERS)


def counts(whole):
    table: dict[str, int] = {}
    for files in whole.samples:
        place = f"{files.split}/{files.defect}"
        table[place] = table.get(place, 0) + 1
    return table


def faults(whole):
    return [fault.kind for fault in whole.faults if not fault.warning]


def test_good_and_bad_are_divided_by_names_alone(part):
    write(part, good=20, bad=3)
    whole = found(part)
    assert faults(whole) == []
    assert counts(whole) == {"train/good": 16, "test/good": 4, "test/bad": 3}
    said = [fault for fault in whole.faults if fault.kind == "divided"]
    assert "4 of 20 good samples are test" in str(said[0])
    # Of the names' SHA-256, by sha256sum: 13715f, 2ac9a6, 2d54ab and 45dd95.
    test = {f.stem for f in whole.split("test") if f.defect == "good"}
    assert test == {"010", "000", "015", "018"}
    picture(part / "good/zzz.png", 5)
    again = {f.stem for f in found(part).split("test") if f.defect == "good"}
    assert again == {"010", "zzz", "000", "015"}  # 17f165


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ({"OK": 4}, {"train/good": 4}),
        (
            {"good": 4, "test__good": 2, "test__dent": 1},
            {"train/good": 4, "test/good": 2, "test/dent": 1},
        ),
        (
            {"train": 3, "good": 2, "scratch": 1},
            {"train/good": 3, "test/good": 2, "test/scratch": 1},
        ),
        (
            {"train__good": 3, "validation": 2, "test__NORMAL": 1, "test__bad": 1},
            {"train/good": 3, "validation/good": 2, "test/good": 1, "test/bad": 1},
        ),
        (
            {"good__monday": 2, "good__tuesday": 3, "test__a b": 1},
            {"train/good": 5, "test/a b": 1},
        ),
        (
            {"train": 3, "bad__front__dent": 2, "bad__back": 1},
            {"train/good": 3, "test/bad_front_dent": 2, "test/bad_back": 1},
        ),
        ({"train": 3, "test__good": 2}, {"train/good": 3, "test/good": 2}),
    ],
)
def test_what_folders_mean(part, folders, expected):
    whole = found(write(part, **folders))
    assert faults(whole) == [] and counts(whole) == expected


def test_good_samples_of_two_folders_keep_both(part):
    whole = found(write(part, good__monday=1, good__tuesday=1))
    assert [f.key for f in whole.samples] == [
        *("train/good/monday_000", "train/good/tuesday_000"),
    ]


@pytest.mark.parametrize(
    ("folders", "kind", "named"),
    [
        ({"dent": 3}, "empty_class", "expected a folder good or train"),
        ({"train": 2, "test__good": 2, "good": 2}, "extra_file", "train and test"),
        ({"train__dent": 2, "good": 2}, "extra_file", "only good samples"),
        ({"test": 2, "good": 2}, "extra_file", "holds samples itself"),
        ({"good": 2, "masks": 2}, "extra_file", "ground_truth/DEFECT/NAME_mask"),
        ({"rgb__good": 2, "good": 2}, "extra_file", "with such a folder in each"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(part, folders, kind, named):
    whole = found(write(part, **folders))
    assert kind in faults(whole)
    assert any(named in str(fault) for fault in whole.faults)


def test_files_and_folders_in_one_are_named(part):
    write(part, good=2, bad=1, bad__deep=1)
    (fault,) = [f for f in found(part).faults if not f.warning]
    assert fault.path.endswith("bad/deep") and "do not hold others" in fault.message


def test_masks_of_some_and_of_none(part, tmp_path):
    write(part, good=5, bad__dent=2)
    arguments = part.parent, "part", "raw", {"image_size": 16}, tmp_path / "cache"
    data = prepare(*arguments, format="npz", name=PLAIN_FOLDERS)
    assert any("no defective sample has a mask" in r for r in data.manifest["remarks"])
    place = part / "ground_truth/bad/dent"
    place.mkdir(parents=True)
    mask = np.zeros((24, 20), np.uint8)
    mask[4:9, 4:9] = 255
    Image.fromarray(mask).save(place / "001_mask.png")
    assert faults(found(part)) == ["missing_gt"]
    shutil.copy(place / "001_mask.png", place / "000_mask.png")
    assert validate(part.parent, "part", PLAIN_FOLDERS) == list(found(part).faults)
    data = prepare(*arguments, format="npz", name=PLAIN_FOLDERS)
    assert data.manifest["regions"] == 2 and not data.manifest["regions_lost"]
    (place.parent / "bump").mkdir()
    assert faults(found(part)) == ["extra_file"]


def test_folders_of_each_modality(box, tmp_path):
    """A class of mvtec_3d, whose folders are moved; the same samples are found."""
    part = box.parent / "plain"
    shutil.copytree(box / "train/good", part / "good")
    shutil.copytree(box / "test/dent", part / "bad")
    whole = found(part)
    assert counts(whole) == {"train/good": 4, "test/good": 1, "test/bad": 2}
    assert faults(whole) == [] and all(f.xyz for f in whole.samples)
    assert all(f.gt for f in whole.split("test") if f.defect == "bad")


def test_points_beside_images(box):
    part = box.parent / "plain"
    for place, name in (("train/good", "good"), ("test/dent", "dent")):
        for kind in ("rgb", "xyz"):
            for path in (box / place / kind).iterdir():
                (part / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, part / name)
    (part / "good/notes.txt").write_text("x")
    whole = found(part)
    assert all(f.rgb and f.xyz for f in whole.samples) and len(whole.samples) == 7
    (fault,) = [f for f in whole.faults if not f.warning]
    assert fault.path.endswith("notes.txt")


def test_a_class_named_as_the_root_is_said(part):
    write(part, good=1)
    with pytest.raises(DatasetError, match="part itself looks like a class"):
        scan(part, "housing", PLAIN_FOLDERS)


def test_classes_and_what_is_none(part):
    write(part, good=1)
    write(part.parent / "other", bad=1)
    assert categories(part.parent, PLAIN_FOLDERS) == ["part"]
    assert categories(part.parent) == []
    (fault,) = strangers(part.parent, PLAIN_FOLDERS)
    assert fault.path.endswith("other")
    assert "as plain has it" in str(strangers(part.parent))
    whole = scan(part.parent, "part")
    assert "look like plain: see data.name" in "\n".join(map(str, whole.faults))
