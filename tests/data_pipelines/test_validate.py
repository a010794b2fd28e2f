"""The validator lists every fault of a class and ends with 2."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from data_pipelines.errors import DatasetError
from data_pipelines.validate import validate


def kinds(faults, warning=False):
    return sorted(f.kind for f in faults if f.warning == warning)


def test_good_class(box):
    assert validate(box.parent, "box") == []


def test_every_corrupt_file_is_listed(box, write):
    bad = [
        box / "train/good/xyz/000.tiff",
        box / "train/good/rgb/002.png",
        box / "test/dent/gt/001.png",
        box / "validation/good/xyz/001.tiff",
    ]
    for path in bad:
        path.write_bytes(path.read_bytes()[:60])
    (box / "validation/good/rgb/001.png").unlink()
    xyz = write.scene(0, 40, 40)[1]
    other = box / "test/good/xyz/000.tiff"
    tifffile.imwrite(other, xyz, photometric="rgb")
    faults = validate(box.parent, "box")
    assert kinds(faults) == ["corrupt"] * 5 + ["missing_rgb"]
    named = {f.path for f in faults if f.kind == "corrupt"}
    assert named == {str(path) for path in [*bad, other]}


def test_mask_values(box):
    path = box / "test/dent/gt/000.png"
    mask = np.zeros((32, 32), np.uint8)
    mask[3, 3:6] = [254, 255, 253]
    Image.fromarray(mask).save(path)
    faults = validate(box.parent, "box")
    assert kinds(faults) == [] and kinds(faults, True) == ["unknown_id"]
    assert "[253]" in faults[0].message
    (box / "class_ids.json").unlink()
    assert "[253, 254]" in validate(box.parent, "box")[0].message


def test_mask_against_folder(box):
    empty = Image.fromarray(np.zeros((32, 32), np.uint8))
    empty.save(box / "test/dent/gt/000.png")
    shutil.copy(box / "test/dent/gt/001.png", box / "test/good/gt/001.png")
    assert kinds(validate(box.parent, "box"), True) == ["mask_label"] * 2


def test_warnings(box, write):
    xyz = write.scene(3)[1]
    xyz[0, 0] = np.nan
    place = box / "train/good/xyz"
    tifffile.imwrite(place / "003.tiff", xyz, photometric="rgb")
    tifffile.imwrite(place / "001.tiff", np.zeros_like(xyz), photometric="rgb")
    shutil.copy(box / "train/good/rgb/000.png", box / "test/good/rgb/000.png")
    write.sample(box / "train/good", "004", 4, size=(40, 24))
    expected = ["duplicate", "image_sizes", "nonfinite", "nothing_measured"]
    faults = validate(box.parent, "box")
    assert kinds(faults) == [] and kinds(faults, True) == expected


def test_unknown_class(box):
    with pytest.raises(DatasetError, match="data.category"):
        validate(box.parent, "bax")


def test_command_line(box):
    command = [sys.executable, "-m", "data_pipelines.validate", str(box.parent)]

    def run(*more):
        return subprocess.run([*command, *more], capture_output=True, text=True)

    good = run("--category=box")
    assert good.returncode == 0 and "box/test: dent 2, good 2" in good.stdout
    path = box / "train/good/xyz/000.tiff"
    path.write_bytes(b"")
    bad = run()
    assert bad.returncode == 1 and f"fault corrupt: {path}" in bad.stdout


def test_a_class_that_cannot_be_read_does_not_end_the_report(box, tmp_path):
    """A class that is a link; and a folder that is no class."""
    shutil.copytree(box, tmp_path / "disk/lid")
    (box.parent / "a").symlink_to(tmp_path / "disk/lid")
    (box.parent / "notes").mkdir()
    command = [sys.executable, "-m", "data_pipelines.validate", str(box.parent)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1 and "leads out of" in found.stdout
    assert "box/test: dent 2, good 2" in found.stdout
    assert "notes: is no class" in found.stdout


def test_real_class_is_clean(native_class):
    assert validate(native_class.parent, native_class.name) == []
