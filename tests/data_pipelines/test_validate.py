"""The validator lists every fault of a class, in a table and one by one."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from data_pipelines.errors import DatasetError
from data_pipelines.examine import examine
from data_pipelines.guess import guess
from data_pipelines.validate import validate


def kinds(faults, warning=False):
    return sorted(f.kind for f in faults if f.warning == warning)


def rows(text):
    """Returns the cells of each row of the table, by split and defect."""
    found = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    lines = [cells for cells in found if cells[0] in ("train", "validation", "test")]
    return {(split, defect): "  ".join(more) for split, defect, *more in lines}


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
    row = rows(good.stdout)["test", "dent"]
    assert good.returncode == 0 and row.startswith("2  rgb xyz gt  32x32  91% to")
    assert row.endswith("2  0  0")
    path = box / "train/good/xyz/000.tiff"
    path.write_bytes(b"")
    bad = run()
    assert bad.returncode == 1 and f"fault corrupt: {path}" in bad.stdout
    assert rows(bad.stdout)["train", "good"].endswith("0  1  0")
    assert "box: 1 faults, 0 warnings" in bad.stdout


def test_a_class_that_cannot_be_read_does_not_end_the_report(box, tmp_path):
    """A class that is a link; and a folder that is no class."""
    shutil.copytree(box, tmp_path / "disk/lid")
    (box.parent / "a").symlink_to(tmp_path / "disk/lid")
    (box.parent / "notes").mkdir()
    command = [sys.executable, "-m", "data_pipelines.validate", str(box.parent)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1 and "leads out of" in found.stdout
    assert ("test", "dent") in rows(found.stdout)
    assert "notes: is no class" in found.stdout


def test_shares_and_distances_are_those_of_the_files(box):
    for path in box.glob("*/*/xyz/*.tiff"):
        xyz = tifffile.imread(path)
        xyz[:] = np.indices((32, 32)).transpose(1, 2, 0)[..., [1, 0, 0]] * 1e-3
        xyz[..., 2] = 0.5
        xyz[:8], xyz[8, 0, 2], xyz[8, 1, 2] = 0, 0.4, 0.75
        tifffile.imwrite(path, xyz, photometric="rgb")
    found = {row[:2]: row for row in examine(box.parent, "box").rows}
    row = found["train", "good"]
    assert row.measured == (0.75, 0.75) and row.sizes == ((32, 32),)
    assert row.distances == pytest.approx((0.4, 0.75))
    assert (row.samples, row.masks, row.faults) == (5, 0, 0)
    assert found["test", "dent"].masks == 2


def validated(box, *more):
    command = [sys.executable, "-m", "data_pipelines.validate", str(box.parent), *more]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_guess_mends_what_it_is_about_and_overwrites_nothing(box):
    """Millimetres, turned as OpenGL has them, with marks, in another folder."""
    for path in list(box.glob("*/*/xyz/*.tiff")):
        xyz = tifffile.imread(path)
        there = xyz[..., 2] > 0
        turned = xyz * np.float32([1000, -1000, -1000])
        turned[~there] = -9999
        tifffile.imwrite(path, turned, photometric="rgb")
    for place in list(box.glob("*/*/xyz")):
        place.rename(place.with_name("cloud"))
    before = validated(box)
    assert "--write_sensor writes it" in before.stdout
    assert not (box / "sensor.json").exists()
    done = validated(box, "--write_sensor")
    assert done.returncode == 0, done.stdout
    table = json.loads((box / "sensor.json").read_text())
    assert table == {
        **{"images": "rgb", "points": "cloud", "masks": "gt", "unit": 0.001},
        **{"missing": [-9999], "axes": ["right", "up", "back"]},
    }
    assert rows(done.stdout)["train", "good"].startswith("5  rgb xyz  32x32  8")
    again = validated(box, "--write_sensor")
    assert again.returncode == 1 and "is there already" in again.stdout


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ((0, 1, 2), ("right", "down", "forward")),
        ((2, 0, 1), ("forward", "right", "down")),
        ((1, 2, 0), ("down", "forward", "right")),
    ],
)
def test_axes_are_guessed_of_a_tilted_part(box, axes, words):
    rows, columns = np.indices((32, 32))
    z = 0.4 + 0.3e-3 * rows + 0.2e-3 * columns  # tilted by less than x and y grow
    xyz = np.stack([columns * 1e-3, rows * 1e-3, z], -1)[..., axes]
    for path in box.glob("*/*/xyz/*.tiff"):
        tifffile.imwrite(path, xyz.astype(np.float32), photometric="rgb")
    assert guess(box).sensor.axes == words and guess(box).sensor.unit == 1


def test_the_size_of_points_without_images_is_that_of_a_header(box):
    for place in [*box.glob("*/*/rgb"), *box.glob("*/*/gt")]:
        shutil.rmtree(place)
    for path in list(box.glob("*/*/xyz/*.tiff")):
        points = tifffile.imread(path)[:, :24].reshape(-1, 3).astype("<f4")
        head = (
            "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 24\nHEIGHT 32\n"
            f"POINTS {len(points)}\nDATA binary\n"
        )
        path.with_suffix(".pcd").write_bytes(head.encode() + points.tobytes())
        path.unlink()
    assert guess(box).sensor.size == (32, 24)
    done = validated(box, "--write_sensor")
    assert rows(done.stdout)["train", "good"].startswith("5  xyz  32x24  ")


def test_depth_images_are_guessed_where_their_camera_is_known(box):
    for place in list(box.glob("*/*/xyz")):
        shutil.rmtree(place)
        depth = np.full((32, 32), 6000, np.uint16)
        depth[0] = 65535
        (place.parent / "range").mkdir()
        for path in (place.parent / "rgb").iterdir():
            Image.fromarray(depth).save(place.parent / "range" / path.name)
    found = guess(box)
    assert found.sensor is None and "camera.json" in found.reasons[-1]
    camera = {"fx": 600, "fy": 600, "cx": 16, "cy": 16}
    (box / "camera.json").write_text(json.dumps(camera))
    sensor = guess(box).sensor
    assert (sensor.depth, sensor.unit, sensor.missing) == ("range", 0.001, (0, 65535))
    done = validated(box, "--write_sensor")
    assert done.returncode == 0 and "97%" in rows(done.stdout)["train", "good"]


def test_real_class_is_clean(native_class):
    assert validate(native_class.parent, native_class.name) == []
