"""Camera files, and points against those that a real sensor measured."""

import json

import numpy as np
import pytest

from data_pipelines.camera import Intrinsics, read_intrinsics, xyz_from_depth
from data_pipelines.decode import read_xyz
from data_pipelines.errors import DatasetError


def write(path, **table):
    path.write_text(json.dumps(table))
    return path


def test_pinhole_by_hand():
    depth = np.zeros((3, 4), np.float32)
    depth[2, 3] = 2.0
    xyz = xyz_from_depth(depth, Intrinsics(10, 20, 1, 0))
    np.testing.assert_allclose(xyz[2, 3], [0.4, 0.2, 2.0], rtol=1e-6)
    assert not xyz[0, 0].any()


def test_both_kinds_of_file(tmp_path):
    plain = write(tmp_path / "a.json", fx=600, fy=610, cx=320.5, cy=240, scale=0.0002)
    assert read_intrinsics(plain) == Intrinsics(600, 610, 320.5, 240, 0.0002, 0, 0)
    camera = {"focus": 0.01, "sx": 4e-6, "sy": 5e-6, "cx": 50, "cy": 60}
    read = read_intrinsics(write(tmp_path / "b.json", kappa=-2000, **camera))
    assert read.fx == pytest.approx(2500) and read.fy == pytest.approx(2000)
    assert read.scale == 0.001
    assert read.kappa_x == pytest.approx(-3.2e-8)


def test_a_scale_that_is_assumed_is_said_and_sizes_are_kept(tmp_path, caplog):
    camera = {"fx": 600, "fy": 610, "cx": 320, "cy": 240}
    read = read_intrinsics(write(tmp_path / "a.json", **camera, width=640, height=480))
    assert (read.rows, read.columns, read.scale) == (480, 640, 0.001)
    assert "a.json: no scale; 0.001 metres a unit is assumed" in caplog.text
    caplog.clear()
    read_intrinsics(write(tmp_path / "a.json", **camera, scale=0.001))
    assert not caplog.text


@pytest.mark.parametrize(
    "table, field",
    [
        ({"fx": 1, "fy": 1, "cx": 1}, "cy"),
        ({"fx": 0, "fy": 1, "cx": 1, "cy": 1}, "fx"),
        ({"fx": "1", "fy": 1, "cx": 1, "cy": 1}, "fx"),
        ({"fx": 1, "fy": 1, "cx": 1, "cy": 1, "scale": 1000}, "scale"),
        ({"focus": 1, "sx": 1, "cx": 1, "cy": 1}, "sy"),
        ({"fx": 1, "fy": 1, "cx": 1, "cy": 1, "kappa": -2000}, "kappa"),
        ({"fx": 1, "fy": 1, "cx": 1, "cy": 1, "image_width": "640"}, "image_width"),
    ],
)
def test_bad_files_name_the_field(tmp_path, table, field):
    with pytest.raises(DatasetError, match=field):
        read_intrinsics(write(tmp_path / "a.json", **table))
    for text in ("[", "[" * 100_000, "[]"):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(DatasetError, match=r"b\.json"):
            read_intrinsics(tmp_path / "b.json")


def test_division_model_against_a_real_sensor(native_class):
    camera = read_intrinsics(native_class / "calibration/camera_parameters.json")
    xyz, _ = read_xyz(native_class / "train/good/xyz/000.tiff")
    there = xyz[..., 2] > 0

    def spread(intrinsics) -> float:
        """Returns the error of x in pixels, less the constant shift of the crop."""
        error = (xyz_from_depth(xyz[..., 2], intrinsics) - xyz)[there][:, 0]
        return float(np.std(error / xyz[there][:, 2] * intrinsics.fx))

    with_distortion = spread(camera)
    assert with_distortion < 0.2  # the sensor samples within its pixels
    assert spread(camera._replace(kappa_x=0.0, kappa_y=0.0)) > 2 * with_distortion


def test_a_key_that_is_not_known_is_refused(tmp_path):
    path = tmp_path / "camera.json"
    path.write_text('{"fx": 1, "fy": 1, "cx": 0, "cy": 0, "depth_scale": 0.0001}')
    with pytest.raises(DatasetError, match="kappa_y, found depth_scale"):
        read_intrinsics(path)
