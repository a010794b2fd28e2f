"""PLY files are read back by a parser of their own, and by Open3D where it is there."""

import struct

import libraries
import numpy as np
import pytest
from made_up_run import file_name

from ad3d_jax.report import overlay, write_ply, write_report
from ad3d_jax.report.cloud import BACKGROUND, cloud_image, rotation


def read_ply(path):
    """Returns points [N,3] and colours [N,3] of a binary little-endian PLY file."""
    head, body = path.read_bytes().split(b"end_header\n", 1)
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    count = next(int(x.split()[2]) for x in lines if x.startswith("element vertex"))
    kinds = [x.split()[1:] for x in lines if x.startswith("property")]
    assert [name for _, name in kinds] == ["x", "y", "z", "red", "green", "blue"]
    code = "<" + "".join({"float": "f", "uchar": "B"}[kind] for kind, _ in kinds)
    vertices = [v for v in struct.iter_unpack(code, body)]
    assert len(vertices) == count
    table = np.array(vertices).reshape(count, 6)
    return table[:, :3], table[:, 3:].astype(np.uint8)


def cloud(count=50):
    random = np.random.default_rng(1)
    colors = random.integers(0, 256, (count, 3), np.uint8)
    return random.normal(size=(count, 3)).astype(np.float32), colors


@pytest.mark.parametrize("count", [0, 1, 50])
def test_ply_is_read_back(tmp_path, count):
    xyz, colors = cloud(count)
    write_ply(tmp_path / "a.ply", xyz, colors)
    points, found = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(points.astype(np.float32), xyz)
    np.testing.assert_array_equal(found, colors)


def test_ply_is_read_by_open3d(tmp_path):
    open3d = libraries.open3d()
    xyz, colors = cloud()
    write_ply(tmp_path / "a.ply", xyz, colors)
    found = open3d.io.read_point_cloud(str(tmp_path / "a.ply"))
    np.testing.assert_array_equal(np.asarray(found.points), xyz.astype(np.float64))
    np.testing.assert_allclose(np.asarray(found.colors) * 255, colors, atol=1e-4)


@pytest.mark.parametrize(
    "xyz, colors, found",
    [
        (np.zeros((4, 2)), np.zeros((4, 3), np.uint8), r"\(4, 2\)"),
        (np.zeros((4, 3)), np.zeros((5, 3), np.uint8), r"\(5, 3\)"),
        (np.zeros((4, 3)), np.zeros((4, 3)), "float64"),
    ],
)
def test_ply_refuses_other_shapes(tmp_path, xyz, colors, found):
    with pytest.raises(ValueError, match=found):
        write_ply(tmp_path / "a.ply", xyz, colors)


def test_clouds_of_the_report_hold_valid_points_in_overlay_colors(workdir):
    maps = [np.load(p)["map"] for p in sorted((workdir / "maps").glob("*.npz"))]
    low, high = np.percentile(np.concatenate([m.ravel() for m in maps]), (1, 99.8))
    name = file_name("dent", "003")
    arrays = dict(np.load(workdir / "maps" / "samples" / name))
    arrays["xyz"][10, 10] = np.nan
    arrays["xyz"][11, 11] = 0
    np.savez(workdir / "maps" / "samples" / name, **arrays)
    write_report(workdir)
    points, colors = read_ply(workdir / "report" / "clouds" / "dent_003.ply")
    kept = arrays["valid"][..., 0].copy()
    kept[10, 10] = kept[11, 11] = False
    np.testing.assert_array_equal(points.astype(np.float32), arrays["xyz"][kept])
    expected = overlay(arrays["rgb"], arrays["map"], low, high)[kept]
    assert np.abs(expected.astype(int) - colors).max() <= 1


def test_image_shows_the_nearer_point():
    side = np.linspace(-0.5, 0.5, 21)
    far = np.stack([*np.meshgrid(side, side), np.zeros((21, 21))], -1).reshape(-1, 3)
    near = np.array([[0.0, 0.0, -0.5]]) @ rotation()  # on the ray of the middle
    colors = np.full((len(far) + 1, 3), (255, 0, 0), np.uint8)
    colors[-1] = (0, 0, 255)
    xyz, focus = np.concatenate([far, near]), np.arange(len(far) + 1) < len(far)
    for order in (np.arange(len(xyz)), np.arange(len(xyz))[::-1]):
        view = cloud_image(xyz[order], colors[order], focus[order], 63)
        blue = np.argwhere((view == (0, 0, 255)).all(-1))
        assert len(blue) and np.abs(blue - 32).max() <= 2
        assert (view == (255, 0, 0)).all(-1).sum() > 400


def test_image_of_no_points_is_empty():
    view = cloud_image(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), 8)
    assert (view == BACKGROUND).all()
