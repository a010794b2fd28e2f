"""P-values, thresholds, boxes and verdicts, against cases computed by hand."""

from itertools import combinations

import numpy as np
import pytest

from ad3d_jax.decision import Box, decide, no_operating_point, operating_point
from ad3d_jax.metrics import conformal
from ad3d_jax.workdir.calibration import (
    Calibration,
    read_calibration,
    write_calibration,
)
from ad3d_jax.workdir.unreadable import UnreadableError

ONE = np.zeros(9, np.int32)
GOOD = np.arange(1, 10, dtype=np.float32)  # 1 … 9


def calibration(image=GOOD, peak=GOOD, fold=None):
    names = tuple(f"good/{i}" for i in range(len(image)))
    fold = np.zeros(len(image), np.int32) if fold is None else fold
    return Calibration("validation", names, image, peak, fold, 0.0, 1.0)


def test_a_p_value_counts_good_scores_that_are_as_large():
    found = conformal.p_values(GOOD, ONE, np.array([[0.5, 9.0, 9.5, 5.0]]))
    np.testing.assert_allclose(found, [1.0, 0.2, 0.1, 0.6])


def test_of_ten_good_scores_any_is_the_largest_equally_often():
    """All ways of leaving one of five out: its p-value is 1/5, …, 5/5 once each."""
    scores = np.array([3.0, 1.0, 7.0, 2.0, 5.0])
    found = [
        conformal.p_values(np.array(others), np.zeros(4), np.array([[left]]))[0]
        for others in combinations(scores, 4)
        for left in set(scores) - set(others)
    ]
    np.testing.assert_allclose(sorted(found), [0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.1, 9.0), (0.2, 8.0), (0.25, 8.0), (0.9, 1.0)]
)
def test_the_threshold_is_an_order_statistic(alpha, expected):
    assert conformal.threshold(GOOD, alpha) == expected
    assert conformal.threshold(np.arange(1.0, 30), 0.1) == 27  # (29 + 1) x .9 exactly


def test_too_few_good_samples_give_no_threshold_and_say_which_rate_is_possible():
    assert conformal.threshold(GOOD, 0.05) is None
    found = decide(calibration(), np.array([99.0]), np.zeros((1, 2, 2)), 0.05)
    assert found.defective is None and found.threshold is None
    assert not found.flagged.any() and found.boxes == ((),)
    assert "9 good samples are too few" in found.note and "0.1" in found.note
    assert found.p_value == pytest.approx([0.1])


@pytest.mark.parametrize("count", [9, 19, 29, 57, 99])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_a_score_is_above_the_threshold_exactly_where_its_p_value_is_small(
    count, alpha
):
    good = np.arange(count, dtype=np.float64)
    limit = conformal.threshold(good, alpha)
    scores = np.arange(-0.5, count + 1, 0.5)
    p_values = conformal.p_values(good, np.zeros(count), scores[None])
    expected = np.zeros(len(scores), bool) if limit is None else scores > limit
    np.testing.assert_array_equal(conformal.rejected(p_values, count, alpha), expected)


def test_the_law_of_false_alarms_is_that_of_drawn_scores():
    law = conformal.false_alarms(19, 20, 0.1)  # 2 of 20 ranks are alarms
    random = np.random.default_rng(0)
    counts = []
    for _ in range(4000):
        scores = random.normal(size=39)
        limit = conformal.threshold(scores[:19], 0.1)
        counts.append(np.sum(scores[19:] > limit))
    assert law.mean() == pytest.approx(2.0)
    drawn = np.bincount(counts, minlength=21)[:6] / 4000
    np.testing.assert_allclose(drawn, law.pmf(np.arange(6)), atol=0.025)
    with pytest.raises(ValueError, match=r"0\.05 or more"):
        conformal.false_alarms(19, 20, 0.04)


def test_each_fold_compares_with_the_scores_of_its_own_model():
    fold = np.array([0, 0, 1, 1])
    good = np.array([1.0, 3.0, 10.0, 30.0])
    found = conformal.p_values(good, fold, np.array([[2.0, 0.0], [20.0, 40.0]]))
    np.testing.assert_allclose(found, [(1 + 1 + 1) / 5, (1 + 2 + 0) / 5])
    # Barber et al. 2021, theorem 4: of n folds the bound is 2 alpha.
    assert conformal.bound(4, 4, 0.1) == pytest.approx(0.2)
    assert conformal.bound(100, 5, 0.1) == pytest.approx(0.2 + 1.6 / 21)
    assert conformal.bound(100, 1, 0.1) == 0.1


def test_boxes_surround_what_no_good_map_reaches_the_worst_first():
    map = np.zeros((6, 8), np.float32)
    map[1, 1:3] = 9.5
    map[2, 3] = 10  # touches the others by a corner
    map[4:6, 6] = 12
    map[0, 7] = 9  # as large as a good one: not flagged
    found = decide(calibration(), np.array([5.0]), map[None], 0.1)
    assert found.boxes == ((Box(4, 6, 6, 7, 12.0), Box(1, 1, 3, 4, 10.0)),)
    assert found.pixel_threshold == 9 and found.flagged.sum() == 5
    assert found.of(0).boxes == found.boxes[0] and not found.of(0).defective


def test_folds_flag_pixels_by_their_p_values():
    fold = np.arange(9, dtype=np.int32) % 3
    maps = np.full((3, 1, 2, 2), 0.5)
    maps[:, 0, 0, 0] = 99
    found = decide(calibration(fold=fold), np.full((3, 1), 99.0), maps, 0.1)
    assert found.flagged[0].tolist() == [[True, False], [False, False]]
    assert found.defective.tolist() == [True] and found.threshold is None
    assert "3 models" in found.note


@pytest.mark.parametrize("alpha", [0, 1, 1.5, -0.1, True, "0.1"])
def test_what_is_no_rate_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha: expected a rate between 0 and 1"):
        decide(calibration(), GOOD[:1], np.zeros((1, 2, 2)), alpha)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        decide(calibration(), np.array([np.nan]), np.zeros((1, 2, 2)), 0.1)


def test_the_operating_point_counts_alarms_and_detections():
    decision = decide(
        calibration(), np.array([1.0, 9.5, 9.5, 9.5, 2.0]), np.zeros((5, 2, 2)), 0.1
    )
    found = operating_point(calibration(), decision, np.array([0, 0, 1, 1, 1]))
    assert found["false_alarm_rate"] == 0.5
    assert found["detection_rate"] == pytest.approx(2 / 3)
    assert found["threshold"] == found["pixel_threshold"] == 9
    assert found["calibration"] == {
        **{"source": "validation", "samples": 9},
        **{"smallest_alpha": 0.1, "bound": 0.1},
    }
    assert found["notes"] == {}
    alone = operating_point(calibration(), decision, np.zeros(5, int))
    assert alone["detection_rate"] is None
    assert alone["notes"] == {
        "detection_rate": "undefined: there is no defective image"
    }
    missing = no_operating_point(0.1, "because")
    assert missing.keys() == found.keys() and missing["notes"]["threshold"] == "because"


def test_scores_survive_the_file_to_the_last_bit(tmp_path):
    random = np.random.default_rng(3)
    image, peak = random.normal(size=(2, 50)).astype(np.float32)
    kept = calibration(image, peak)
    write_calibration(tmp_path / "c.json", kept)
    found = read_calibration(tmp_path / "c.json")
    for before, after in zip(kept, found, strict=True):
        np.testing.assert_array_equal(before, after)
    assert read_calibration(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"good/3",', "", "a value for each of 8"),
        ("5.0", "null", "finite"),
        ('"fold"', '"folder"', "fold"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, before, after, words):
    path = tmp_path / "calibration.json"
    write_calibration(path, calibration())
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(UnreadableError, match=words):
        read_calibration(path)
