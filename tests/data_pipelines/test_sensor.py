"""What a sensor's files mean: declared, read, compared with points made by hand."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from data_pipelines.camera import Intrinsics, xyz_from_depth
from data_pipelines.decode import stored_depth
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.layout import scan
from data_pipelines.preprocess import prepare
from data_pipelines.resident import load_resident
from data_pipelines.samples import load_sample
from data_pipelines.sensor import PLAIN, Sensor, in_metres
from data_pipelines.sensor_file import of_table, read_sensor, to_table
from data_pipelines.unlabelled import read_folder

CAMERA = {"fx": 600, "fy": 620, "cx": 15.5, "cy": 14, "scale": 0.0001}
INTRINSICS = Intrinsics(600, 620, 15.5, 14, 0.0001)
SIZE = {"image_size": 16}


def declare(folder, **table):
    (folder / "sensor.json").write_text(json.dumps(table))


def loaded(folder):
    """Returns the points of the first training sample."""
    first = scan(folder.parent, folder.name).split("train")[0]
    return load_sample(first).sample.xyz


def units_of(xyz):
    return np.rint(xyz[..., 2] / 0.0001).astype(np.uint16)


def depth_class(box, write, **camera):
    """Turns the class into one of depth images; returns its twin of such points."""
    twin = box.parent / "twin"
    shutil.copytree(box, twin)
    for path in sorted(box.glob("*/*/xyz/*.tiff")):
        units = units_of(tifffile.imread(path))
        place = path.parents[1] / "depth"
        place.mkdir(exist_ok=True)
        if path.stem == "001":
            tifffile.imwrite(place / f"{path.stem}.tiff", units)
        else:
            Image.fromarray(units).save(place / f"{path.stem}.png")
        depth = (units * 0.0001).astype(np.float32)
        points = xyz_from_depth(depth, INTRINSICS)
        tifffile.imwrite(twin / path.relative_to(box), points, photometric="rgb")
    for place in list(box.glob("*/*/xyz")):
        shutil.rmtree(place)
    return twin


def arrays(folder, tmp_path, **prepared):
    data = prepare(
        *(folder.parent, folder.name, "raw", SIZE, tmp_path / "cache"), format="npz"
    )
    reader = load_resident(data)
    return data, [next(reader.ordered(s, 8, 0)) for s in ("train", "test")]


def test_depth_in_training_is_the_points_in_training_bit_by_bit(box, write, tmp_path):
    twin = depth_class(box, write)
    (box / "camera.json").write_text(json.dumps(CAMERA))
    depth, of_depth = arrays(box, tmp_path)
    points, of_points = arrays(twin, tmp_path)
    for one, other in zip(of_depth, of_points, strict=True):
        for field in ("rgb", "xyz", "depth", "valid", "mask", "label", "id"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert of_depth[0].xyz[..., 2].max() > 0.5
    assert points.manifest["sensor"] is None
    assert of_table("kept", depth.manifest["sensor"]).intrinsics == INTRINSICS
    rows = [row["sha256"].keys() for row in depth.manifest["samples"]]
    assert {frozenset(keys) for keys in rows} == {
        *(frozenset(("rgb", "xyz")), frozenset(("rgb", "xyz", "gt")))
    }


def test_depth_alone_and_images_alone(box, write, tmp_path):
    depth_class(box, write)
    (box / "camera.json").write_text(json.dumps(CAMERA))
    whole = arrays(box, tmp_path)[1][0]
    declare(box, points=None)
    images = arrays(box, tmp_path)[1][0]
    np.testing.assert_array_equal(images.rgb, whole.rgb)
    assert images.xyz is None and images.depth is None
    declare(box, images=None, depth="depth")
    depth = arrays(box, tmp_path)[1][0]
    np.testing.assert_array_equal(depth.xyz, whole.xyz)
    assert depth.rgb is None and len(set(depth.id[:5].tolist())) == 5


def test_a_camera_a_sample(box, write, tmp_path):
    """Each has other intrinsics; one is missing, one is wrong."""
    depth_class(box, write)
    for path in sorted(box.glob("*/*/depth/*")):
        place = path.parents[1] / "cameras"
        place.mkdir(exist_ok=True)
        own = {**CAMERA, "fx": 500 + int(path.stem)}
        (place / f"{path.stem}.json").write_text(json.dumps(own))
    declare(box, depth="depth", unit=0.0001, intrinsics="cameras")
    for files in scan(box.parent, "box").split("train"):
        units = stored_depth(files.xyz)
        camera = INTRINSICS._replace(fx=500 + int(files.stem))
        expected = xyz_from_depth((units * 0.0001).astype(np.float32), camera)
        np.testing.assert_array_equal(load_sample(files).sample.xyz, expected)
    before = arrays(box, tmp_path)[0].manifest["hash"]
    camera = box / "train/good/cameras/002.json"
    camera.write_text(json.dumps({**CAMERA, "fx": 900}))
    assert arrays(box, tmp_path)[0].manifest["hash"] != before
    camera.write_text(json.dumps({**CAMERA, "scale": 0.001}))
    with pytest.raises(CorruptSampleError, match=r"002\.json: scale: expected"):
        arrays(box, tmp_path)
    camera.unlink()
    (fault,) = [f for f in scan(box.parent, "box").faults if not f.warning]
    assert fault.kind == "missing_camera" and fault.path == str(camera)


@pytest.mark.parametrize(
    ("axes", "file"),
    [
        (("right", "down", "forward"), (0.1, -0.2, 0.7)),
        (("right", "up", "back"), (0.1, 0.2, -0.7)),  # OpenGL
        (("forward", "left", "up"), (0.7, -0.1, 0.2)),  # ROS
        (("down", "forward", "left"), (-0.2, 0.7, -0.1)),
    ],
)
def test_axes_and_units_by_hand(axes, file):
    """A point 0.1 m to the right, 0.2 m up and 0.7 m away; one that is missing."""
    sign = 1 if "forward" in axes else -1
    lost = [sign * 9999.0 if word in ("forward", "back") else 3.0 for word in axes]
    sensor = Sensor(axes=axes, unit=0.001, missing=(-5.0, sign * 9999.0))
    points = np.array([np.array(file) * 1000, lost], np.float32)
    expected = [[0.1, -0.2, 0.7], [0, 0, 0]]
    np.testing.assert_allclose(in_metres(points, sensor), expected, rtol=1e-6)


def test_usual_points_keep_their_bits(write):
    xyz = write.scene(0)[1]
    xyz[0, 0] = np.nan
    assert in_metres(xyz, PLAIN).tobytes() == xyz.tobytes()
    assert in_metres(xyz, Sensor(unit=1.0)).tobytes() == xyz.tobytes()


def test_millimetres_upwards_with_a_mark(box):
    """The same points in another unit, turned, with -9999 where unmeasured."""
    expected = loaded(box)
    for path in box.glob("*/*/xyz/*.tiff"):
        xyz = tifffile.imread(path).astype(np.float64)
        there = xyz[..., 2] > 0
        turned = xyz * (1000, -1000, -1000)
        turned[~there] = -9999
        tifffile.imwrite(path, turned.astype(np.float32), photometric="rgb")
    with pytest.raises(CorruptSampleError, match="millimetres"):
        loaded(box)
    declare(box.parent, unit="mm", axes=["right", "up", "back"], missing=[-9999])
    np.testing.assert_allclose(loaded(box), expected, atol=1e-7)
    declare(box, unit="m")  # that of the class counts alone
    with pytest.raises(CorruptSampleError, match="millimetres"):
        loaded(box)


PLY = "ply\nformat binary_little_endian 1.0\nelement vertex {}\n" + "".join(
    [f"property float {axis}\n" for axis in "xyz"] + ["end_header\n"]
)
PCD = (
    "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {0}\nHEIGHT 1\n"
    "POINTS {0}\nDATA binary\n"
)


@pytest.mark.parametrize(("head", "ending"), [(PLY, "ply"), (PCD, "pcd")])
def test_organised_clouds_are_the_points_of_a_tiff(box, head, ending):
    expected = loaded(box)
    for path in list(box.glob("*/*/xyz/*.tiff")):
        points = tifffile.imread(path).reshape(-1, 3)
        points[(points == 0).all(1)] = np.nan
        data = head.format(len(points)).encode() + points.astype("<f4").tobytes()
        path.with_suffix(f".{ending}").write_bytes(data)
        path.unlink()
    np.testing.assert_array_equal(loaded(box), expected)
    for place in list(box.glob("*/*/rgb")):  # and without images
        shutil.rmtree(place)
    assert loaded(box).shape == (32 * 32, 1, 3)
    declare(box, size=[32, 32])
    np.testing.assert_array_equal(loaded(box), expected)
    declare(box, size=[32, 30])
    with pytest.raises(CorruptSampleError, match="32 x 30 pixels .*, found 1024"):
        loaded(box)


def test_folders_of_other_names(box):
    expected = loaded(box)
    for old, new in (("rgb", "Colour"), ("xyz", "pointcloud"), ("gt", "label")):
        for path in list(box.glob(f"*/*/{old}")):
            path.rename(path.with_name(new))
    declare(box, images="Colour", points="pointcloud", masks="label")
    found = scan(box.parent, "box")
    assert found.faults == () and all(s.gt for s in found.split("test"))
    np.testing.assert_array_equal(loaded(box), expected)
    declare(box, images="Colour", points="cloud", masks="label")
    kinds = [f.kind for f in scan(box.parent, "box").faults if not f.warning]
    assert kinds == ["not_there"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"units": "mm"}, "no other key than .*found units"),
        ({"unit": "inch"}, "unit: expected m, cm, mm, um"),
        ({"unit": 1000}, "unit: expected"),
        ({"unit": True}, "unit: expected"),
        ({"missing": -1}, "missing: expected a list"),
        ({"missing": ["NaN"]}, "missing: expected a list"),
        ({"axes": ["right", "down", "up"]}, "axes: expected three"),
        ({"axes": "xyz"}, "axes: expected three"),
        ({"size": [480]}, "size: expected rows and columns"),
        ({"size": [480, 640.0]}, "size: expected rows and columns"),
        ({"points": "../xyz"}, "points: expected the plain name"),
        ({"points": "xyz", "depth": "depth"}, "points or depth, found both"),
        ({"images": None, "points": None}, "images, points or depth; found none"),
        ({"images": "xyz"}, "a folder of its own"),
        ({"depth": "depth"}, "depth needs intrinsics"),
        ({"depth": "depth", "intrinsics": "a.json"}, "a.json: cannot be read"),
        ({"depth": "depth", "intrinsics": {"fx": 1}}, "intrinsics: expected fx"),
        ({"depth": "depth", "intrinsics": CAMERA, "unit": "mm"}, "scale: expected"),
        ({"depth": "depth", "intrinsics": "cameras"}, "unit: expected one"),
        ({"intrinsics": CAMERA}, "found no key depth"),
        (
            {"depth": "d", "intrinsics": CAMERA, "axes": ["left", "up", "back"]},
            "axes and",
        ),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path, table, said):
    declare(tmp_path, **table)
    with pytest.raises(DatasetError, match=said) as error:
        read_sensor(tmp_path / "sensor.json")
    assert "json" in str(error.value)


def test_a_depth_image_of_another_kind_is_named(tmp_path):
    path = tmp_path / "a.tiff"
    for wrong in (np.zeros((32, 32), np.float32), np.zeros((32, 32, 3), np.uint16)):
        tifffile.imwrite(path, wrong)
        with pytest.raises(CorruptSampleError, match=r"expected uint16 \[rows, colu"):
            stored_depth(path)


def test_a_key_that_stands_twice_and_what_is_no_table_are_refused(tmp_path):
    for text in ('{"unit": "m", "unit": "mm"}', "[]", "{", '{"unit": 1e999}'):
        (tmp_path / "sensor.json").write_text(text)
        with pytest.raises(DatasetError, match=r"sensor\.json"):
            read_sensor(tmp_path / "sensor.json")


@pytest.mark.parametrize(
    "sensor",
    [
        PLAIN,
        Sensor(
            unit=0.001, axes=("right", "up", "back"), missing=(-1.5,), size=(48, 64)
        ),
        Sensor(images=None, points=None, depth="d", unit=0.0001, intrinsics=INTRINSICS),
        Sensor(points=None, depth="d", unit=0.001, cameras="c", missing=()),
    ],
)
def test_what_is_kept_is_what_was_declared(sensor):
    kept = json.loads(json.dumps(to_table(sensor)))
    assert of_table("kept", kept) == sensor


def test_new_files_are_read_by_the_kept_declaration(box, write, tmp_path, caplog):
    """Without a file beside them; one that lies there counts, which is said."""
    depth_class(box, write)
    (box / "camera.json").write_text(json.dumps(CAMERA))
    data, (train, _) = arrays(box, tmp_path)
    sensor = of_table("kept", data.manifest["sensor"])
    params, inbox = data.manifest["params"], box / "train/good"

    def first():
        records = read_folder(inbox, "raw", params, ("rgb", "xyz"), sensor=sensor)
        return next(records)[1]

    np.testing.assert_array_equal(first()["xyz"], train.xyz[0])
    assert "counts in place" not in caplog.text
    (inbox / "camera.json").write_text(json.dumps({**CAMERA, "fx": 300}))
    np.testing.assert_allclose(first()["xyz"][..., 0], 2 * train.xyz[0, ..., 0])
    assert "camera.json counts in place of the fit's camera" in caplog.text
