"""Values and ranks over kinds of planted defects, by hand."""

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from ad3d_jax.evaluate import Scored
from ad3d_jax.experiment.study import ranking, report, strata
from ad3d_jax.experiment.study.records import FACTS, FIELDS, KINDS, SLOT
from ad3d_jax.workdir.scores import Row


def kinds_of(**pairs):
    """Returns kinds whose (I-AUROC, AUPRO@0.3) are given, and low ends of 0.5."""
    low = {"aupro_05": 0.5, "p_ap": 0.5}
    return {k: {"i_auroc": i, "aupro_30": a, **low} for k, (i, a) in pairs.items()}


def test_a_value_is_the_weighted_mean_over_kinds():
    kinds = kinds_of(cut=(0.8, 0.6), stain=(0.5, 0.3))
    assert strata.value(kinds, "mean", {}) == pytest.approx((0.7 + 0.4) / 2)
    assert strata.value(kinds, "mean", {"cut": 3.0}) == pytest.approx(2.5 / 4)
    assert strata.value(kinds, "i_auroc", {"stain": 0.0}) == pytest.approx(0.8)
    kinds["stain"]["aupro_30"] = None
    assert math.isnan(strata.value(kinds, "mean", {}))
    assert strata.undefined(kinds, "mean", {}) == ["stain"]
    assert strata.value(kinds, "mean", {"stain": 0.0}) == pytest.approx(0.7)


def test_weights_are_of_planted_kinds_and_one_counts():
    strata.check_weights({"cut": 0.0}, ["cut", "stain"])
    with pytest.raises(ValueError, match=r"of \['cut'\], which are planted, found 'st"):
        strata.check_weights({"stain": 1.0}, ["cut"])
    with pytest.raises(ValueError, match="expected one above 0"):
        strata.check_weights({"cut": 0.0}, ["cut"])


def test_mean_ranks_by_hand_with_ties_and_weights():
    trials = [
        kinds_of(cut=(0.9, 0.5), stain=(0.6, 0.6)),
        kinds_of(cut=(0.7, 0.6), stain=(0.6, 0.9)),
        kinds_of(cut=(0.8, 0.4), stain=(0.6, 0.7)),
    ]
    # cut: I 1, 3, 2 and A 2, 1, 3; stain: I 2, 2, 2 and A 3, 1, 2.
    assert strata.mean_ranks(trials, "mean", {}) == [2.0, 1.75, 2.25]
    weighted = strata.mean_ranks(trials, "mean", {"cut": 3.0})
    assert weighted == pytest.approx([14 / 8, 15 / 8, 19 / 8])
    assert strata.mean_ranks(trials, "i_auroc", {"stain": 0.0}) == [1.0, 3.0, 2.0]
    assert strata.mean_ranks([], "mean", {}) == []


def test_where_all_trials_are_near_one_the_low_end_is_ranked():
    one, other = kinds_of(cut=(0.99, 1.0)), kinds_of(cut=(0.98, 0.99))
    one["cut"] |= {"aupro_05": 0.7, "p_ap": 0.2}
    other["cut"] |= {"aupro_05": 0.9, "p_ap": 0.8}
    assert strata.mean_ranks([one, other], "mean", {}) == [2.0, 1.0]
    assert strata.mean_ranks([one, other], "aupro_30", {}) == [1.0, 2.0]
    third = kinds_of(cut=(0.5, 0.5))  # far from 1, so that what is asked for counts
    assert strata.mean_ranks([one, other, third], "mean", {}) == [1.0, 2.0, 3.0]


def test_each_kind_is_measured_against_all_good_samples():
    masks = np.zeros((4, 4, 4), bool)
    masks[2:, 1, 1] = True
    maps = np.zeros((4, 4, 4), np.float32)
    maps[2, 1, 1] = 1.0  # the first kind is found, the other is not
    labels = [0, 0, 1, 1]
    rows = [Row("box", k, str(n), n, labels[n]) for n, k in enumerate("ggab")]
    image = np.array([0.1, 0.2, 0.9, 0.15], np.float32)
    found = strata.measure(Scored(maps, masks, image, np.ones(4), {}), rows)
    assert list(found) == ["a", "b"]
    assert found["a"]["i_auroc"] == 1.0 and found["a"]["aupro_30"] == 1.0
    assert found["b"]["i_auroc"] == 0.5 and found["b"]["p_auroc"] == 0.5


RATE = optuna.distributions.FloatDistribution(0.0, 9.0)


def trial(number, value, kinds=None, state=TrialState.COMPLETE, **more):
    attributes = {SLOT: number, FIELDS: {"rate": float(number)}}
    if kinds is not None:
        attributes[KINDS] = kinds
    more |= {"params": {"rate": float(number)}, "distributions": {"rate": RATE}}
    return create_trial(value=value, state=state, user_attrs=attributes, **more)


@pytest.fixture
def study():
    study = optuna.create_study(study_name="s", direction="maximize")
    study.set_user_attr(FACTS, {"metric": "mean", "weights": {"cut": 1.0}})
    # The highest value comes of one kind alone.
    study.add_trial(trial(0, 0.70, kinds_of(cut=(0.9, 0.9), stain=(0.5, 0.5))))
    study.add_trial(trial(1, 0.65, kinds_of(cut=(0.6, 0.6), stain=(0.7, 0.7))))
    study.add_trial(trial(2, 0.64, kinds_of(cut=(0.8, 0.5), stain=(0.6, 0.66))))
    return study


def test_the_best_trial_has_the_lowest_mean_rank(study):
    found = ranking.best_first(study, study.trials)
    assert [t.number for t in found] == [1, 0, 2]
    assert ranking.mean_ranks(study, found) == [1.75, 2.0, 2.25]
    assert report.best_trial(study).number == 1
    equal = [study.trials[0], trial(5, 0.71, study.trials[0].user_attrs[KINDS])]
    assert [t.value for t in ranking.best_first(study, equal)] == [0.71, 0.70]
    study.add_trial(trial(3, 0.9))  # without kinds values decide
    assert report.best_trial(study).value == 0.9


def test_the_page_tells_kinds_and_no_pruned_trial_among_final_values(
    study, monkeypatch
):
    cut = {"state": TrialState.PRUNED, "intermediate_values": {25: 0.99}}
    study.add_trial(trial(3, 0.99, **cut))
    figures = []

    def drawn(width, height, draw):
        import matplotlib.figure

        figures.append(matplotlib.figure.Figure((width, height)))
        draw(figures[-1])
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(report, "drawn", drawn)
    page = report.compose(study, [])
    for word in ("Kinds of planted defects", "mean rank", "stain", "1.75"):
        assert word in page
    (axes,) = figures[0].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["complete"].get_ydata().tolist() == [0.7, 0.65, 0.64]
    assert lines["pruned"].get_ydata() == [0]
    assert lines["pruned"].get_transform() == axes.get_xaxis_transform()
    assert [text.get_text() for text in axes.texts] == ["25 %"]
