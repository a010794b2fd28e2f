"""The recipe `plane`: a box on a tilted table, samples without one, a real part."""

import hashlib
import os
import shutil
import subprocess
import sys

import libraries
import numpy as np
import pytest

from data_pipelines.decode import read_mask, read_rgb, read_xyz
from data_pipelines.errors import DatasetError
from data_pipelines.preprocess import prepare
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.recipes.plane import pad_to_square
from data_pipelines.samples import complete_parameters
from data_pipelines.unlabelled import read_folder

PLANE = RECIPES["plane"]
SMALL = {"strip": 3, "pad_to": 20, "image_size": 80, "interpolation": "bilinear"}


def params(**changes) -> dict:
    return PLANE.fit(complete_parameters("plane", {**SMALL, **changes}), iter(()))


def table(height: int = 70, width: int = 60, seed: int = 0):
    """Returns xyz of a tilted table, 1 mm a pixel, a tenth of it missing."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((height, width))
    z = 0.6 + 2e-4 * rows - 1e-4 * columns + random.normal(0, 2e-4, rows.shape)
    xyz = np.stack([columns * 1e-3 - 0.03, rows * 1e-3 - 0.0305, z], -1)
    xyz[random.random(z.shape) < 0.1] = 0
    return xyz.astype(np.float32)


def lift(xyz: np.ndarray, place, metres: float) -> None:
    xyz[place][..., 2] -= metres * (xyz[place][..., 2] > 0)


BOX = np.s_[20:45, 15:40]
CRUMB = np.s_[55:61, 45:51]


@pytest.fixture
def scene() -> Sample:
    """Returns a box, a crumb away from it, white everywhere, a mask over the crumb."""
    xyz = table()
    lift(xyz, BOX, 0.02)
    lift(xyz, CRUMB, 0.01)
    mask = np.zeros(xyz.shape[:2], np.uint8)
    mask[CRUMB] = 254
    return Sample(np.full(xyz.shape, 255, np.uint8), xyz, mask)


def test_a_box_on_a_tilted_table(scene):
    applied = PLANE.apply(params(), scene)
    record = applied.record
    assert applied.flags == ()
    # 70 x 60 becomes 80 x 80: 5 rows above, 10 columns to the left.
    place = np.s_[25:50, 25:50]
    expected = np.zeros((80, 80), bool)
    expected[place] = scene.xyz[BOX][..., 2] > 0
    for name in ("valid", "foreground"):
        np.testing.assert_array_equal(record[name][..., 0], expected)
    np.testing.assert_array_equal(record["xyz"][place], scene.xyz[BOX])
    assert not record["xyz"][~expected].any() and not record["depth"][~expected].any()
    # White stay the box and what was not measured; the padding is black.
    white = np.zeros((80, 80), bool)
    white[5:75, 10:70] = scene.xyz[..., 2] == 0
    np.testing.assert_array_equal(record["rgb"].all(-1), white | expected)
    # The crumb is gone but stays a defect.
    assert record["mask"].sum() == 36 and record["mask"][60:66, 55:61].all()


def test_colour_may_be_kept(scene):
    """Points go as ever; image and mask stay, and their edges fill the square."""
    rgb = np.random.default_rng(0).integers(0, 256, scene.rgb.shape).astype(np.uint8)
    mask = scene.mask.copy()
    mask[-1, -1] = 1
    sample = scene._replace(rgb=rgb, mask=mask)
    record = PLANE.apply(params(colour="kept"), sample).record
    widths = (5, 5), (10, 10)
    np.testing.assert_array_equal(record["rgb"], np.pad(rgb, (*widths, (0, 0)), "edge"))
    expected = np.pad(mask > 0, widths, "edge")
    np.testing.assert_array_equal(record["mask"][..., 0], expected)
    without = PLANE.apply(params(), sample).record
    for name in ("xyz", "depth", "valid", "foreground"):
        np.testing.assert_array_equal(record[name], without[name])


def test_the_input_is_left_alone(scene):
    before = [array.copy() for array in scene]
    PLANE.apply(params(), scene)
    for array, copy in zip(scene, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_thresholds_are_parameters(scene):
    def kept(**changes):
        return int(PLANE.apply(params(**changes), scene).record["foreground"].sum())

    box = int((scene.xyz[BOX][..., 2] > 0).sum())
    crumb = int((scene.xyz[CRUMB][..., 2] > 0).sum())
    assert kept() == kept(removal_distance=0.008) == box
    assert kept(cluster_radius=0.03) == box + crumb
    wide = params(removal_distance=0.05)
    assert PLANE.apply(wide, scene).flags == ("nothing_found",)


def test_a_mask_of_another_size_is_padded_alike(scene):
    double = scene._replace(mask=scene.mask.repeat(2, 0).repeat(2, 1))
    one, two = (PLANE.apply(params(), s).record["mask"] for s in (scene, double))
    np.testing.assert_array_equal(one, two)


def test_then_as_raw(scene):
    small = params(image_size=40, mask_size=20, resize_size=60)
    record = PLANE.apply(small, scene).record
    shapes = {name: array.shape for name, array in record.items()}
    assert shapes["rgb"] == shapes["xyz"] == (40, 40, 3)
    assert shapes["mask"] == (20, 20, 1)
    full = PLANE.apply(params(), scene).record["xyz"]
    index = (np.arange(60) * 80 // 60)[10:50]
    np.testing.assert_array_equal(record["xyz"], full[index][:, index])


@pytest.mark.parametrize(
    ("shape", "side", "top", "left"),
    [
        ((700, 750), 800, 50, 25),
        ((400, 900), 900, 250, 0),
        ((800, 800), 800, 0, 0),
        ((256, 256), 300, 22, 22),
        ((97, 100), 100, 1, 0),
    ],
)
def test_padding_to_a_square(shape, side, top, left):
    square = pad_to_square(np.ones((*shape, 1), np.uint8), 100)
    expected = np.zeros((side, side, 1))
    expected[top : top + shape[0], left : left + shape[1]] = 1
    np.testing.assert_array_equal(square, expected)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda xyz: xyz.fill(0), "nothing_measured"),
        (lambda xyz: [xyz[k].fill(0) for k in border()], "no_plane"),
        (lambda xyz: None, "nothing_found"),
        (lambda xyz: lift(xyz, np.s_[3:-3, 3:-3], 0.02), None),
    ],
    ids=["no point", "no border", "flat", "all but the border"],
)
def test_where_nothing_can_be_removed_all_is_kept(change, flag):
    xyz = table()
    change(xyz)
    applied = PLANE.apply(params(), Sample(np.full(xyz.shape, 9, np.uint8), xyz))
    assert applied.flags == ((flag,) if flag else ())
    measured = pad_to_square(xyz[..., 2] > 0, 20)
    if flag:
        np.testing.assert_array_equal(applied.record["foreground"][..., 0], measured)
        assert (applied.record["rgb"] == 9)[5:75, 10:70].all()
    else:
        assert 0 < applied.record["foreground"].sum() < measured.sum()


def border():
    return np.s_[:3], np.s_[-3:], np.s_[:, :3], np.s_[:, -3:]


def test_a_plane_that_misses_the_table_keeps_all():
    xyz = table()
    for k in (np.s_[0], np.s_[-1], np.s_[1:-1, 0], np.s_[1:-1, -1]):
        lift(xyz, k, 0.1)  # the border hangs in the air
    sample = Sample(np.zeros(xyz.shape, np.uint8), xyz)
    applied = PLANE.apply(params(strip=1, all_foreground=0.9), sample)
    assert applied.flags == ("all_foreground",)
    assert applied.record["foreground"].sum() == (xyz[..., 2] > 0).sum()
    assert PLANE.apply(params(strip=1, all_foreground=0.99), sample).flags == ()


def test_noise_may_win_the_vote():
    xyz = table()
    places = [(r, c) for r in range(10, 60, 10) for c in range(10, 50, 10)]
    for row, column in places:
        xyz[row, column, 2] = 0.5
    applied = PLANE.apply(params(), Sample(np.zeros(xyz.shape, np.uint8), xyz))
    assert applied.flags == ("noise_kept",)
    assert applied.record["foreground"].sum() == len(places)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strip": 0}, "strip.*1 or more.*0"),
        ({"hypotheses": 2.5}, "hypotheses.*whole number.*2.5"),
        ({"points_per_hypothesis": 2}, "points_per_hypothesis.*3"),
        ({"removal_distance": 5}, "removal_distance.*metres.*5"),
        ({"interpolation": "cubic"}, "interpolation"),
        ({"colour": "grey"}, "colour: expected removed or kept, found 'grey'"),
    ],
)
def test_wrong_parameters_are_named(changes, words):
    with pytest.raises(DatasetError, match=words):
        params(**changes)


def test_images_alone_are_refused_early(box, tmp_path):
    rgb = box / "train/good/rgb"
    with pytest.raises(DatasetError, match="recipe plane needs points"):
        read_folder(rgb, "plane", params(), ("rgb",))
    with pytest.raises(DatasetError, match="needs points"):
        PLANE.apply(params(), Sample(np.zeros((20, 20, 3), np.uint8)))
    name, record = next(read_folder(box / "train/good", "plane", params(), ("rgb",)))
    assert name == "000" and "xyz" in record
    for folder in box.glob("*/*/xyz"):
        shutil.rmtree(folder)
    with pytest.raises(DatasetError, match="data.recipe: plane needs points"):
        prepare(box.parent, "box", "plane", SMALL, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


PROGRAM = """
import hashlib, sys
from pathlib import Path
from data_pipelines.preprocess import prepare
chosen = {"strip": 3, "pad_to": 1, "image_size": 32, "seed": 5}
data = prepare(sys.argv[1], "box", "plane", chosen, sys.argv[2], format="npz")
files = sorted(data.folder.iterdir())
print(data.folder.name, *[hashlib.sha256(f.read_bytes()).hexdigest() for f in files])
"""


def test_equal_in_every_run(box, tmp_path):
    chosen = {"strip": 3, "pad_to": 1, "image_size": 32, "seed": 5}
    data = prepare(box.parent, "box", "plane", chosen, tmp_path / "a", format="npz")
    assert data.manifest["params"]["seed"] == 5
    assert data.manifest["params"]["removal_distance"] == 0.005
    assert data.manifest["flags"] == {}
    files = sorted(data.folder.iterdir())
    digests = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    command = [sys.executable, "-c", PROGRAM, str(box.parent), str(tmp_path / "b")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == [data.folder.name, *digests], done.stderr
    other = {**chosen, "seed": 6}
    folder = prepare(box.parent, "box", "plane", other, tmp_path / "a").folder
    assert folder.name != data.folder.name


def test_a_real_part_as_open3d_cuts_it(native_class):
    open3d = libraries.open3d()
    folder = native_class / "test/bent"
    xyz, _ = read_xyz(folder / "xyz/000.tiff")
    rgb = read_rgb(folder / "rgb/000.png")
    mask = read_mask(folder / "gt/000.png")
    chosen = params(strip=10, pad_to=100, image_size=400)
    applied = PLANE.apply(chosen, Sample(rgb, xyz, mask))
    kept = applied.record["foreground"][..., 0]
    assert applied.flags == () and kept.shape == (400, 400)

    def cloud(points):
        vector = open3d.utility.Vector3dVector(points.astype(np.float64))
        return open3d.geometry.PointCloud(vector)

    strips = xyz[:10], xyz[-10:], xyz[:, :10], xyz[:, -10:]
    edge = np.concatenate([s.reshape(-1, 3) for s in strips])
    edge = edge[(edge != 0).all(-1)]
    open3d.utility.random.seed(0)
    (*normal, offset), _ = cloud(edge).segment_plane(0.004, 50, 1000)
    off = (xyz != 0).all(-1) & (np.abs(xyz @ np.array(normal) + offset) >= 0.005)
    labels = np.array(cloud(xyz[off]).cluster_dbscan(0.006, 30))
    theirs = np.zeros_like(off)
    theirs[off] = labels == np.bincount(labels[labels >= 0]).argmax()
    assert theirs.sum() > 20_000 and (kept ^ theirs).sum() < 20
    assert (applied.record["mask"][..., 0] & kept).sum() > 0.5 * (mask > 0).sum()
