"""Depth images of one's own camera, in plain folders, to scores of new files."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import ad3d_jax as ad
from ad3d_jax.experiment import origin
from ad3d_jax.experiment.arrays import measured_of
from ad3d_jax.experiment.inspect import inspect
from data_pipelines.camera import Intrinsics, xyz_from_depth
from data_pipelines.sensor_file import of_table

CAMERA = {"fx": 77, "fy": 76, "cx": 32, "cy": 31.5, "scale": 0.0001}
FIELDS = {
    **{"data.name": "plain", "data.image_size": 56},
    **{"fit.engine": "jit", "data.reader": "resident", "model.cells": 7},
    **{"calibration.source": "none"},
}


def scan(seed, bad=False):
    """Returns rgb and depth in tenths of millimetres of a dome, with a hole or not."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((64, 64)) - 32
    height = np.clip(900 - rows**2 - columns**2, 0, None)
    depth = 5000 - height + random.normal(0, 2, height.shape)
    depth[40:46, 30:36] += 300 * bad
    depth[:3] = 0  # unmeasured
    rgb = random.integers(100, 120, (64, 64, 3)).astype(np.uint8)
    return rgb, depth.round().astype(np.uint16)


def write(place, stem, rgb, depth):
    for name, array in (("rgb", rgb), ("depth", depth)):
        (place / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(place / name / f"{stem}.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for k in range(6):
        write(folder / "data/dome/good", f"{k}", *scan(k))
        if k < 2:
            write(folder / "data/dome/bad", f"{k}", *scan(10 + k, bad=True))
            write(folder / "new", f"{k}", *scan(20 + k, bad=k == 1))
    (folder / "data/dome/camera.json").write_text(json.dumps(CAMERA))
    fields = {**FIELDS, "data.cache": str(folder / "cache")}
    run = ad.Experiment(
        *("btf:cpu",),
        **{"data": folder / "data", "category": "dome", "workdir": folder / "run"},
        set=fields,
    )
    run.fit()
    return run


def test_new_files_and_arrays_are_read_by_the_declaration_that_was_kept(run, tmp_path):
    path = inspect(run.workdir, run.workdir.parent / "new", tmp_path)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    detector = ad.load(run.workdir)
    for row, k in zip(rows, (0, 1), strict=True):
        rgb, depth = scan(20 + k, bad=k == 1)
        scores = detector.score(rgb=rgb, depth=depth)
        assert float(row["score"]) == pytest.approx(float(scores.image), rel=1e-6)
    assert float(rows[1]["score"]) > float(rows[0]["score"])
    camera = Intrinsics(**CAMERA)
    points = xyz_from_depth((depth * 0.0001).astype(np.float32), camera)
    np.testing.assert_array_equal(detector.score(rgb=rgb, xyz=points).map, scores.map)


def test_arrays_of_points_are_in_the_declared_unit_along_the_declared_axes():
    _, depth = scan(30)
    camera = Intrinsics(**CAMERA)
    points = xyz_from_depth((depth * 0.0001).astype(np.float32), camera)
    table = {"unit": 0.001, "axes": ["right", "up", "back"], "missing": [9]}
    turned = points.astype(np.float64) * (1000, -1000, -1000)
    turned[depth == 0] = 1, 2, 9
    own = measured_of(None, turned, None, None, of_table("sensor", table))["xyz"]
    np.testing.assert_allclose(own, points, atol=1e-7)
    plain = measured_of(None, points, None, None, of_table("sensor", {}))["xyz"]
    np.testing.assert_array_equal(plain, points)


def test_a_changed_declaration_is_another_fit_and_older_workdirs_have_none(run):
    kept = origin.read(run.workdir)
    assert of_table("kept", kept.sensor).intrinsics == Intrinsics(**CAMERA)
    other = {**kept.sensor, "missing": [7]}
    with pytest.raises(ValueError, match=r"sensor\.missing"):
        origin.begin(run.workdir, kept._replace(sensor=other))
    path = run.workdir / "checkpoints/origin.json"
    text = path.read_text()
    try:
        table = json.loads(text)
        del table["sensor"]
        path.write_text(json.dumps(table))
        assert origin.read(run.workdir).sensor is None
    finally:
        path.write_text(text)
