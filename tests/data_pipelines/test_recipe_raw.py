"""The recipe `raw`: views that agree, Pillow's images, Open3D's FPFH."""

import libraries
import numpy as np
import pytest
from PIL import Image

from data_pipelines import geometry
from data_pipelines.errors import DatasetError
from data_pipelines.preprocess import prepare
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.resident import load_resident
from data_pipelines.samples import complete_parameters

RAW = RECIPES["raw"]


def params(**changes) -> dict:
    return RAW.fit(complete_parameters("raw", changes), iter(()))


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
def test_images_are_pillows(write, name):
    rgb, xyz = write.scene(0, 40, 52)
    record = RAW.apply(params(image_size=24, interpolation=name), Sample(rgb, xyz))
    kernel = Image.Resampling[name.upper()]
    expected = Image.fromarray(rgb).resize((24, 24), kernel)
    np.testing.assert_array_equal(record.record["rgb"], np.asarray(expected))


@pytest.mark.parametrize("mask_size", [24, 48, 36])
def test_crop_shows_one_place_in_all_fields(mask_size):
    # Each pixel knows its place, and the mask is the place's right half.
    rows, columns = np.indices((80, 120))
    xyz = np.stack([columns + 1, rows + 1, np.ones_like(rows)], -1) / 100
    rgb = np.stack([columns, rows, rows], -1).astype(np.uint8)
    mask = (columns >= 60).astype(np.uint8) * 253
    sizes = {"image_size": 24, "mask_size": mask_size, "resize_size": 32}
    sample = Sample(rgb, xyz.astype(np.float32), mask)
    record = RAW.apply(params(**sizes, interpolation="bilinear"), sample).record
    # 80 x 120 becomes 32 x 48 and loses 4 rows and 12 columns on each side.
    source = (np.arange(48) * 120 // 48)[12:36]
    np.testing.assert_allclose(record["xyz"][0, :, 0], (source + 1) / 100)
    assert record["rgb"].shape == (24, 24, 3)
    middle = (np.arange(12, 36) + 0.5) * 2.5 - 0.5
    assert np.abs(record["rgb"][..., 0] - middle).max() <= 1
    assert record["mask"].shape == (mask_size, mask_size, 1)
    assert record["mask"].mean() == 0.5 and record["mask"][:, mask_size // 2 :].all()


def test_whole_resize_is_as_before(write):
    rgb, xyz = write.scene(1, 40, 52)
    record = RAW.apply(params(image_size=[20, 26]), Sample(rgb, xyz)).record
    blocks = rgb.reshape(20, 2, 26, 2, 3).mean((1, 3))
    assert np.abs(record["rgb"] - blocks).max() <= 0.5
    np.testing.assert_array_equal(record["xyz"], xyz[::2, ::2])
    assert set(record) == {"rgb", "mask", "xyz", "depth", "valid", "foreground"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interpolation": "cubic"}, "interpolation.*bicubic.*'cubic'"),
        (
            {"extras": ("height_normalised",)},
            "raw cannot make height_normalised.*can make: fpfh, depth_normalised",
        ),
        ({"resize_size": 255}, "resize_size.*256.*255"),
        ({"resize_size": "256"}, "resize_size"),
        ({"crop": 3}, "no parameter crop"),
    ],
)
def test_wrong_parameters_are_named(changes, words):
    with pytest.raises(DatasetError, match=words):
        params(**changes)


def pooled(histograms: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Returns 3x3 means without padding, averaged over 28 x 28 adaptive bins."""
    grid = np.zeros((*there.shape, 33))
    grid[there] = histograms
    side = there.shape[0] - 2
    mean = sum(grid[i : i + side, j : j + side] for i in range(3) for j in range(3)) / 9
    edges = [(i * side // 28, -(-(i + 1) * side // 28)) for i in range(28)]
    cells = [[mean[a:b, c:d].mean((0, 1)) for c, d in edges] for a, b in edges]
    return np.array(cells)


def open3d_fpfh(points: np.ndarray) -> np.ndarray:
    open3d = libraries.open3d()
    search = open3d.geometry.KDTreeSearchParamHybrid
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    cloud.estimate_normals(search(0.1, 30))
    compute = open3d.pipelines.registration.compute_fpfh_feature
    return np.array(compute(cloud, search(0.25, 100)).data).T


def test_fpfh_extra_is_open3ds(write):
    libraries.open3d()
    rgb, xyz = write.scene(2, 64, 64)
    chosen = params(image_size=32, extras=("fpfh",))
    record = RAW.apply(chosen, Sample(rgb, xyz)).record
    small = xyz[::2, ::2].astype(np.float64)
    there = small[..., 2] > 0
    assert 0 < there.sum() < there.size
    assert (small[there] == 0).any()  # a column of x = 0 is measured like any other
    expected = pooled(open3d_fpfh(small[there]), there)
    np.testing.assert_allclose(record["fpfh"], expected, rtol=1e-5, atol=1e-4)
    fields = RAW.fields(chosen, frozenset(("rgb", "xyz")))
    assert fields["fpfh"] == ((28, 28, 33), "float32")
    assert {name: (a.shape, str(a.dtype)) for name, a in record.items()} == fields


def test_fpfh_of_an_empty_cloud_is_zero():
    libraries.open3d()
    nothing = Sample(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.float32))
    applied = RAW.apply(params(image_size=20, extras=("fpfh",)), nothing)
    assert applied.flags == ("nothing_measured",)
    assert applied.record["fpfh"].shape == (28, 28, 33)
    assert not applied.record["fpfh"].any()


def test_fpfh_survives_both_readers(box, tmp_path):
    libraries.open3d()
    stream = pytest.importorskip("data_pipelines.stream")
    chosen = {"image_size": 20, "extras": ("fpfh",)}
    batches = {}
    for format, read in (("tfds", stream.open_stream), ("npz", load_resident)):
        data = prepare(box.parent, "box", "raw", chosen, tmp_path, format=format)
        assert data.manifest["extras"] == ["fpfh"]
        batches[format] = next(read(data).ordered("train", 5, 0))
    one, two = batches["tfds"].extras["fpfh"], batches["npz"].extras["fpfh"]
    assert one.shape == (5, 28, 28, 33) and one.dtype == np.float32
    np.testing.assert_array_equal(one, two)
    xyz = batches["tfds"].xyz[3]
    there = xyz[..., 2] > 0
    expected = pooled(open3d_fpfh(xyz[there].astype(np.float64)), there)
    np.testing.assert_allclose(one[3], expected, rtol=1e-5, atol=1e-4)


def test_absent_open3d_is_told_before_work_begins(box, tmp_path, monkeypatch):
    def absent():
        raise DatasetError("no Open3D")

    monkeypatch.setattr(geometry, "open3d", absent)
    chosen = {"image_size": 16, "extras": ("fpfh",)}
    with pytest.raises(DatasetError, match="no Open3D"):
        prepare(box.parent, "box", "raw", chosen, tmp_path / "cache", format="npz")
    assert not list((tmp_path / "cache").iterdir())
    prepare(box.parent, "box", "raw", {"image_size": 16}, tmp_path, format="npz")
