"""Lists of points: PLY and PCD files, labels, and files that lie."""

import libraries
import numpy as np
import pytest

from data_pipelines.clouds import read_labels, read_points
from data_pipelines.errors import CorruptSampleError

POINTS = np.array([[0.1, -0.2, 0.3], [1, 2, 3], [-4, 5.5, -6]], np.float32)
PLY = "ply\nformat {form} 1.0\ncomment x\nelement vertex 3\n{fields}end_header\n"
XYZ = "property float x\nproperty float y\nproperty float z\n"
PCD = "# .PCD v0.7\nVERSION 0.7\nFIELDS {}\nSIZE {}\nTYPE {}\nCOUNT {}\nPOINTS 3\n"


def ascii_rows(*extra) -> bytes:
    rows = (" ".join(map(str, [*extra, *row])) for row in POINTS.tolist())
    return ("\n".join(rows) + "\n").encode()


def ply(form: str, fields: str = XYZ) -> bytes:
    return PLY.format(form=form, fields=fields).encode()


def cases():
    wide = np.zeros(3, [("c", "u1"), ("p", "<f8", 3), ("i", "<i4")])
    wide["p"], wide["c"] = POINTS, 7
    doubles = XYZ.replace("float", "double")
    wide_ply = "property uchar c\n" + doubles + "property int i\n"
    faces = "element face 1\nproperty list uchar int vertex_indices\n"
    normal = np.concatenate([np.ones((3, 2), np.float32), POINTS], 1)
    plain = ("x y z", "4 4 4", "F F F", "1 1 1")
    return {
        "a.ply": ply("ascii") + ascii_rows(),
        "b.ply": ply("binary_little_endian") + POINTS.tobytes(),
        "c.ply": ply("binary_little_endian", wide_ply) + wide.tobytes(),
        "d.ply": ply("ascii", XYZ + faces) + ascii_rows() + b"3 0 1 2\n",
        "e.ply": ply("ascii").replace(b"\n", b"\r\n") + ascii_rows(),
        "f.pcd": PCD.format(*plain).encode() + b"DATA ascii\n" + ascii_rows(),
        "g.pcd": PCD.format(*plain).encode() + b"DATA binary\n" + POINTS.tobytes(),
        "h.pcd": PCD.format("n x y z", "4 4 4 4", "F F F F", "2 1 1 1").encode()
        + b"DATA binary\n"
        + normal.tobytes(),
    }


@pytest.mark.parametrize("name", cases())
def test_points_are_read_as_they_were_written(tmp_path, name):
    (tmp_path / name).write_bytes(cases()[name])
    xyz, nonfinite = read_points(tmp_path / name)
    assert xyz.dtype == np.float32 and nonfinite == 0
    np.testing.assert_array_equal(xyz, POINTS[:, None])


@pytest.mark.parametrize("name", ["a.ply", "b.ply", "f.pcd", "g.pcd", "h.pcd"])
def test_open3d_reads_the_same(tmp_path, name):
    open3d = libraries.open3d()
    (tmp_path / name).write_bytes(cases()[name])
    points = np.asarray(open3d.io.read_point_cloud(str(tmp_path / name)).points)
    np.testing.assert_array_equal(read_points(tmp_path / name)[0][:, 0], points)


@pytest.mark.parametrize("ending", ["ply", "pcd"])
@pytest.mark.parametrize("text", [True, False])
def test_what_open3d_writes_is_read(tmp_path, ending, text):
    open3d = libraries.open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(POINTS))
    cloud.paint_uniform_color([0.1, 0.2, 0.3])
    path = tmp_path / f"a.{ending}"
    assert open3d.io.write_point_cloud(str(path), cloud, write_ascii=text)
    np.testing.assert_allclose(read_points(path)[0][:, 0], POINTS, rtol=1e-6)


def test_points_that_are_not_finite_are_unmeasured(tmp_path):
    points = POINTS.copy()
    points[1, 2] = np.nan
    (tmp_path / "a.ply").write_bytes(ply("binary_little_endian") + points.tobytes())
    xyz, nonfinite = read_points(tmp_path / "a.ply")
    assert nonfinite == 1 and not xyz[1].any() and xyz[0].all()


BIG = b"element vertex 999999999999"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.ply", b"", "expected 1 to"),
        ("a.ply", b"solid\nend_header\n", "begin with 'ply'"),
        ("a.ply", ply("ascii")[:-12] + ascii_rows(), "'end_header' ends"),
        ("a.ply", ply("binary_big_endian") + POINTS.tobytes(), "big_endian"),
        ("a.ply", ply("ascii") + ascii_rows()[:-30], "cannot be decoded"),
        ("a.ply", ply("binary_little_endian") + POINTS.tobytes()[:-1], "3 .* 2 found"),
        ("a.ply", ply("binary_little_endian").replace(b"element vertex 3", BIG), "cut"),
        ("a.ply", ply("ascii").replace(b"vertex 3", b"vertex -3"), "promises -3"),
        ("a.ply", ply("ascii").replace(b"vertex 3", b"vertex 0"), "no point"),
        ("a.ply", ply("ascii").replace(b" z\n", b" w\n") + ascii_rows(), "'z'"),
        ("a.ply", ply("ascii").replace(b"float x", b"half x"), "half"),
        ("a.pcd", b"DATA binary_compressed\n", "ascii or binary"),
        ("a.pcd", b"DATA ascii\n", "FIELDS"),
        ("a.pcd", cases()["g.pcd"].replace(b"F F F", b"Q F F"), "'Q'"),
        ("a.pcd", cases()["g.pcd"].replace(b"4 4 4", b"4 4 3"), "cannot be decoded"),
    ],
)
def test_files_that_lie_are_named(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorruptSampleError, match=words) as error:
        read_points(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_labels_alone_and_with_their_points(tmp_path):
    (tmp_path / "a.txt").write_text("0\n1\n\n2\n")
    found = read_labels(tmp_path / "a.txt")
    assert found.labels.tolist() == [[0], [1], [1]] and found.xyz is None
    for separator in " ,":
        lines = [separator.join(f"{x}" for x in (*p, 1.0)) for p in POINTS]
        (tmp_path / "b.txt").write_text("\n".join(lines))
        found = read_labels(tmp_path / "b.txt")
        assert found.labels.ravel().tolist() == [1, 1, 1]
        np.testing.assert_array_equal(found.xyz, POINTS[:, None])


@pytest.mark.parametrize(
    "text", ["a b c d\n", "1 2\n", "1\n1 2 3 4\n", "\n", "1 2 3\n"]
)
def test_other_lines_are_refused(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(CorruptSampleError, match=r"a\.txt"):
        read_labels(tmp_path / "a.txt")


@pytest.mark.parametrize("label", ["nan", "-1"])
def test_what_is_no_label_is_refused(tmp_path, label):
    path = tmp_path / "a.txt"
    path.write_text(f"0\n1\n{label}\n")
    with pytest.raises(CorruptSampleError, match=f"labels of 0 or more, found {label}"):
        read_labels(path)
