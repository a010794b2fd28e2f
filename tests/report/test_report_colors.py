"""Colours and outlines by hand-computed values."""

import numpy as np
import pytest

from ad3d_jax.report import heat_map, overlay
from ad3d_jax.report.colors import (
    CONTOUR,
    CONTOUR_EDGE,
    HEAT,
    UNMEASURED,
    contour,
    robust_range,
)


def test_heat_map_by_hand():
    # Five steps between six colours: 0.1 lies halfway between the first two.
    map = np.array([[0.0, 1.0, 0.1, -3.0, 9.0, 0.2]], np.float32)
    expected = [(8, 6, 30), (255, 248, 190), (37, 11, 70), (8, 6, 30)]
    expected += [(255, 248, 190), (66, 16, 110)]
    assert heat_map(map, 0.0, 1.0).tolist() == [[list(c) for c in expected]]


def test_heat_map_takes_a_channel_and_keeps_size():
    map = np.zeros((3, 5, 1), np.float32)
    assert heat_map(map, 0, 1).shape == (3, 5, 3)
    assert heat_map(map, 0, 1).dtype == np.uint8
    with pytest.raises(ValueError, match=r"\(3, 5, 2\)"):
        heat_map(np.zeros((3, 5, 2)), 0, 1)


def test_heat_map_of_constant_and_unknown():
    map = np.array([[2.0, 2.5, np.nan]], np.float32)
    found = heat_map(map, 2.0, 2.0)
    assert found[0, 0].tolist() == HEAT[0].tolist()
    assert found[0, 1].tolist() == HEAT[-1].tolist()
    assert found[0, 2].tolist() == UNMEASURED.tolist()


def test_lightness_of_the_heat_map_rises():
    ramp = heat_map(np.linspace(0, 1, 100)[None], 0, 1)[0].astype(float)
    luma = ramp @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luma) >= -0.6).all() and luma[-1] - luma[0] > 200


def test_overlay_by_hand():
    rgb = np.array([[[1.0, 0.5, 0.0]] * 3], np.float32)
    map = np.array([[0.0, 1.0, 0.2]], np.float32)
    found = overlay(rgb, map, 0.0, 1.0)
    # Opacity 0, 0.8 and 0.8 * 0.04; 0.5 is 127.5, rounded to the even 128.
    assert found[0, 0].tolist() == [255, 128, 0]
    assert found[0, 1].tolist() == [255, round(0.2 * 128 + 0.8 * 248), 152]
    expected = 0.968 * np.array([255, 128, 0]) + 0.032 * np.array([66, 16, 110])
    assert found[0, 2].tolist() == np.rint(expected).tolist()
    assert found.dtype == np.uint8


def test_overlay_of_bytes_is_that_of_floats():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (4, 6, 3), np.uint8)
    map = random.uniform(size=(4, 6, 1)).astype(np.float32)
    as_float = overlay(pixels.astype(np.float32) / 255, map, 0.2, 0.7)
    np.testing.assert_array_equal(overlay(pixels, map, 0.2, 0.7), as_float)


def test_overlay_refuses_other_sizes():
    with pytest.raises(ValueError, match=r"\(4, 4, 3\)"):
        overlay(np.zeros((5, 4, 3)), np.zeros((4, 4)), 0, 1)


def test_contour_lies_around_the_mask():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    found = contour(np.zeros((9, 9, 3), np.uint8), mask)
    assert (found[4, 4] == 0).all()
    assert (found[3:6, 3:6] == CONTOUR).all(-1).sum() == 8
    assert (found == CONTOUR_EDGE).all(-1).sum() == 16
    assert (found.any(-1)).sum() == 24


def test_robust_range_ignores_what_is_not_finite():
    values = np.append(np.arange(1001.0), (np.nan, np.inf))
    low, high = robust_range(values)
    assert low == pytest.approx(10) and high == pytest.approx(998)
    assert robust_range(np.array([np.nan])) == (0.0, 1.0)
