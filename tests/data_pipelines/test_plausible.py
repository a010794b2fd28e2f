"""Points are judged by their values: what cannot be right is refused, never scored."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import CorruptSampleError
from data_pipelines.measured import measured
from data_pipelines.plausible import checked_points

FILE = Path("a.tiff")


@pytest.fixture
def good(write) -> np.ndarray:
    return write.scene(0)[1]


def test_what_was_measured_stays_as_it_is(good):
    xyz, flags, nonfinite = checked_points(FILE, good)
    np.testing.assert_array_equal(xyz, good)
    assert (flags, nonfinite) == ((), 0)


def test_a_scan_that_looks_the_other_way_is_refused(good):
    """Y and z point out of the scene."""
    with pytest.raises(CorruptSampleError, match="expected a positive z.*turn y and z"):
        checked_points(FILE, good * np.float32([1, -1, -1]))


def test_a_few_points_behind_the_camera_are_unmeasured_and_said(good):
    good[3, 4:7] *= -np.float32([[1], [1.1], [1.2]])
    good[3, 4:7, 2] -= np.float32([0.1, 0.2, 0.3])
    xyz, flags, _ = checked_points(FILE, good)
    assert flags == ("behind_camera",) and not xyz[3, 4:7].any()


@pytest.mark.parametrize("mark", [-1, -9999, 65.535, 1e6, -32768, 3.4e38, 1e-6])
@pytest.mark.parametrize("whole", [True, False], ids=["xyz", "z alone"])
def test_one_impossible_value_marks_unmeasured_points(good, mark, whole):
    expected = good.copy()
    expected[:20] = 0
    good[:20, :, slice(None) if whole else slice(2, 3)] = mark
    xyz, flags, _ = checked_points(FILE, good)
    np.testing.assert_array_equal(xyz, expected)
    assert flags == ("mark_read",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda xyz: xyz * 1000, "millimetres"),
        (lambda xyz: xyz * 100, "millimetres"),
        (lambda xyz: xyz * 0.001, "median distance"),
        (lambda xyz: xyz * np.float32([0, 0, 1]), "one line"),
        (lambda xyz: np.repeat(xyz[..., 2:], 3, -1), "one line"),
        (lambda xyz: xyz - np.float32([0, 0, 0.5995]), "negative one in"),
        (lambda xyz: xyz[..., [1, 0, 2]], "x to grow along the columns"),
        (lambda xyz: np.swapaxes(xyz, 0, 1), "x to grow along the columns"),
        (lambda xyz: np.rot90(xyz), "x to grow along the columns"),
        (lambda xyz: shuffled(xyz), "in no order"),
    ],
    ids=[
        *("mm", "cm", "km", "no x and y", "z thrice", "over the table"),
        *("x and y swapped", "transposed", "turned", "no order"),
    ],
)
def test_geometry_that_cannot_be_right_is_refused(good, change, message):
    with pytest.raises(CorruptSampleError, match=f"a.tiff: expected .*{message}"):
        checked_points(FILE, change(good))


def shuffled(xyz: np.ndarray) -> np.ndarray:
    points = xyz.reshape(-1, 3)
    return np.random.default_rng(0).permutation(points).reshape(xyz.shape)


@pytest.mark.parametrize(
    "change",
    [np.flipud, np.fliplr, lambda x: x[::-1, ::-1], lambda x: x * [1, -1, 1]],
    ids=["rows", "columns", "both", "y upwards"],
)
def test_points_that_run_against_the_image_are_said(good, change):
    xyz, flags, _ = checked_points(FILE, change(good).astype(np.float32))
    assert flags == ("mirrored",)
    np.testing.assert_array_equal(xyz, change(good))


def test_a_camera_that_looks_askance_is_taken(good):
    """Turned by 40 degrees about x, and about z."""
    turn = np.deg2rad(40)
    c, s = np.cos(turn), np.sin(turn)
    about_x, about_z = np.eye(3), np.eye(3)
    about_x[1:, 1:] = about_z[:2, :2] = [[c, -s], [s, c]]
    for axes in (about_x, about_z):
        points = good @ np.float32(axes)
        points[good[..., 2] == 0] = 0
        assert checked_points(FILE, points.astype(np.float32))[1] == ()


def test_a_distance_far_behind_all_others_that_recurs_is_said(good):
    good[:3, :, 2] = 6.5535
    xyz, flags, _ = checked_points(FILE, good)
    assert flags == ("far_behind",)
    np.testing.assert_array_equal(xyz[..., 2], good[..., 2])
    good[:3, :, 2] = np.linspace(5, 6, 96).reshape(3, 32)
    assert checked_points(FILE, good)[1] == ()


def test_points_within_a_millimetre_of_the_camera_are_unmeasured(good):
    good[3, 4:7, 2] = 1e-4, 2e-4, 9e-4
    xyz, flags, _ = checked_points(FILE, good)
    assert flags == ("behind_camera",) and not xyz[3, 4:7].any()


def test_hardly_anything_measured_is_said(good):
    good[1:] = np.nan
    xyz, flags, _ = checked_points(FILE, good)
    assert flags == ("hardly_measured",) and (xyz[0, :, 2] > 0).any()
    assert checked_points(FILE, good * 0)[1] == ()  # recipes say nothing_measured


def test_one_rule_of_measured():
    points = np.float32([[0, 0, 0.5], [0.1, 0.1, 0], [0, 0, -1], [np.nan, 0, 1]])
    assert measured(points[None])[0].tolist() == [True, False, False, False]
    # Lists of points may lie anywhere.
    assert measured(points[:, None])[:, 0].tolist() == [True, True, True, False]
