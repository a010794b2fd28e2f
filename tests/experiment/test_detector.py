"""A detector on arrays: equal to the evaluation of files, and strict at its border."""

import csv

import numpy as np
import pytest

import ad3d_jax as ad
from ad3d_jax.base import Batch
from ad3d_jax.experiment.arrays import ids_of
from ad3d_jax.experiment.data import data_folder
from data_pipelines.camera import Intrinsics, xyz_from_depth
from data_pipelines.decode import read_rgb, read_xyz

SMALL = {
    "data.image_size": 56,
    "data.sample_set.train": 4,
    "data.sample_set.validation": 1,
    "data.sample_set.test_good": 2,
    "data.sample_set.test_per_defect": 1,
    "eval.batch_size": 1,
    "eval.images_per_defect": 0,
    "fit.engine": "jit",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns BTF on colour and points (both are looked at), fitted and evaluated."""
    folder = tmp_path_factory.mktemp("detector")
    fields = {**SMALL, "data.cache": str(folder / "cache")}
    run = ad.Experiment("btf:raw", category="bun", workdir=folder / "run", set=fields)
    run.fit()
    run.evaluate()
    return run


@pytest.fixture(scope="module")
def detector(run):
    return run.detector


@pytest.fixture(scope="module")
def scans(run):
    """Returns (row of scores.csv, rgb, xyz) of each test sample, from its files."""
    root, category = data_folder(run.config)
    with open(run.workdir / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    places = [root / category / "test" / row["defect"] for row in rows]
    return [
        (
            row,
            read_rgb(place / "rgb" / f"{row['stem']}.png"),
            read_xyz(place / "xyz" / f"{row['stem']}.tiff")[0],
        )
        for row, place in zip(rows, places, strict=True)
    ]


def map_of(run, row):
    name = f"{row['defect']}_{row['stem']}.npz"
    return np.load(run.workdir / "maps" / name)["map"]


def test_a_score_is_that_of_the_evaluation_bit_for_bit(run, detector, scans):
    for row, rgb, xyz in scans:
        scores = detector.score(rgb=rgb, xyz=xyz)
        assert isinstance(scores.map, np.ndarray) and scores.image.shape == ()
        assert f"{scores.image:.9g}" == row["score"]
        np.testing.assert_array_equal(scores.map[..., 0], map_of(run, row))


def test_a_batch_is_scored_row_by_row_and_floats_are_eight_bits(detector, scans):
    rgb = np.stack([scan[1] for scan in scans[:3]])
    xyz = np.stack([scan[2] for scan in scans[:3]])
    scores = detector.score(rgb=rgb, xyz=xyz)
    assert scores.map.shape == (3, 56, 56, 1)
    again = detector.score(rgb=rgb / 255, xyz=xyz.astype(np.float64))
    np.testing.assert_array_equal(again.map, scores.map)
    for row in range(3):
        alone = detector.score(rgb=rgb[row], xyz=xyz[row])
        np.testing.assert_allclose(scores.image[row], alone.image, rtol=1e-5)


def test_each_shape_compiles_once(run, scans):
    detector = run.detector
    traces = []
    score = detector.system.score

    def counted(*arguments):
        traces.append(1)
        return score(*arguments)

    detector.system = detector.system._replace(score=counted)
    for _, rgb, xyz in scans:
        detector.score(rgb=rgb, xyz=xyz)
    assert len(traces) == 1
    detector.score(rgb=rgb[None].repeat(2, 0), xyz=xyz[None].repeat(2, 0))
    assert len(traces) == 2


def test_depth_with_intrinsics_is_points(detector, scans):
    _, rgb, xyz = scans[0]
    depth = np.where(xyz[..., 2] > 0, xyz[..., 2], np.nan)
    camera = {"fx": 80.0, "fy": 80.0, "cx": 27.5, "cy": 27.5}
    points = xyz_from_depth(np.nan_to_num(depth), Intrinsics(**camera))
    expected = detector.score(rgb=rgb, xyz=points)
    for given in (depth, depth[..., None]):
        scores = detector.score(rgb=rgb, depth=given, intrinsics=camera)
        np.testing.assert_array_equal(scores.map, expected.map)
    alone = detector.score(xyz=points)  # nothing looks at the colour
    np.testing.assert_array_equal(alone.map, expected.map)
    units = np.round(np.nan_to_num(depth) * 1000).astype(np.uint16)
    rounded = xyz_from_depth((units * 0.001).astype(np.float32), Intrinsics(**camera))
    scores = detector.score(rgb=rgb, depth=units, intrinsics=Intrinsics(**camera))
    expected = detector.score(rgb=rgb, xyz=rounded)
    np.testing.assert_array_equal(scores.map, expected.map)


def test_a_mark_or_a_masked_distance_is_unmeasured(detector, scans, caplog):
    _, rgb, xyz = scans[0]
    units = np.round(xyz[..., 2] * 10_000).astype(np.uint16)
    camera = {"fx": 80.0, "fy": 80.0, "cx": 27.5, "cy": 27.5, "scale": 0.0001}
    units[:4] = 0
    expected = detector.score(rgb=rgb, depth=units, intrinsics=camera)
    masked = np.ma.masked_array(units.copy(), np.indices(units.shape)[0] < 4)
    masked.data[:4] = 5000
    units[:4] = 65535  # 6.55 m
    for given in (units, masked):
        scores = detector.score(rgb=rgb, depth=given, intrinsics=camera)
        np.testing.assert_array_equal(scores.map, expected.map)
    with pytest.raises(ValueError, match="depth: expected 16 bits"):
        detector.score(rgb=rgb, depth=units.astype(np.uint8), intrinsics=camera)
    with pytest.raises(ValueError, match=r"depth: .*28 x 28 .*found 56 x 56"):
        small = {**camera, "width": 28, "height": 28}
        detector.score(rgb=rgb, depth=units, intrinsics=small)


def test_ids_come_of_all_that_was_measured(scans):
    (_, rgb, xyz), (_, _, other), *_ = scans
    rgbs, points = np.stack([rgb, rgb, rgb]), np.stack([xyz, other, xyz])
    one, two, three = ids_of({"rgb": rgbs, "xyz": points}, None, 3)
    assert one == three != two


def test_what_is_odd_about_arrays_is_said(detector, scans, caplog):
    _, rgb, xyz = scans[0]
    detector.score(rgb=rgb, xyz=xyz)
    assert not caplog.text
    detector.score(rgb=rgb, xyz=0 * xyz)
    assert "sample 0: no point is measured" in caplog.text


def test_saved_and_loaded_elsewhere_it_is_the_same(detector, scans, tmp_path):
    detector.save(tmp_path / "elsewhere")
    _, rgb, xyz = scans[-1]
    one, other = (
        each.score(rgb=rgb, xyz=xyz)
        for each in (detector, ad.load(tmp_path / "elsewhere"))
    )
    np.testing.assert_array_equal(one.map, other.map)
    with pytest.raises(ValueError, match="no fitted state"):
        ad.load(tmp_path)


def test_a_preprocessed_batch_is_checked(detector):
    ones = np.ones((1, 56, 56, 3), np.float32)
    one = ones[..., :1]
    batch = Batch(
        xyz=ones,
        depth=one,
        valid=one > 0,
        foreground=one > 0,
        weight=np.ones(1, np.float32),
        id=np.zeros(1, np.int32),
    )
    assert np.isfinite(detector.score_batch(batch).map).all()
    for wrong in (ones.astype(np.float64), 980 * ones, np.nan * ones, ones[..., :2]):
        with pytest.raises(ValueError, match=r"^batch\.xyz: expected "):
            detector.score_batch(batch._replace(xyz=wrong))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"xyz": None}, "needs xyz, or depth with intrinsics, to score; found rgb"),
        ({"rgb": None, "xyz": None}, "found nothing"),
        ({"rgb": lambda x: x.astype(np.float32)}, r"rgb: .*\[0,1\].* 0 to 255"),
        ({"rgb": lambda x: x.astype(np.int32)}, "rgb: .*int32"),
        ({"rgb": lambda x: x[..., :2]}, r"rgb: .*height, width, 3\]"),
        ({"xyz": lambda x: 1000 * x}, "xyz: .*metres.*millimetres"),
        ({"xyz": lambda x: x[:-1]}, "xyz: .*height and width"),
        ({"depth": lambda x: x}, "xyz or depth, found both"),
        ({"id": [1, 2]}, "id: expected 1"),
        ({"id": 1.5}, "id: expected 1"),
        ({"rgb": lambda x: np.ma.masked_equal(x, 0)}, "rgb: .*masked"),
        ({"rgb": lambda x: x > 9}, "rgb: expected numbers, found bool"),
        ({"rgb": lambda x: [x, x[:-1]]}, "rgb: expected one array"),
        ({"xyz": lambda x: x[..., [1, 0, 2]]}, "xyz: expected x to grow along"),
    ],
)
def test_a_wrong_array_is_named(detector, scans, change, words):
    _, rgb, xyz = scans[0]
    given = {"rgb": rgb, "xyz": xyz}
    for name, value in change.items():
        old = given.get(name, xyz[..., 2])
        given[name] = value(old) if callable(value) else value
    with pytest.raises(ValueError, match=words):
        detector.score(**given)
