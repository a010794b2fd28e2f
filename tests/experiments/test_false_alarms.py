"""The benchmark's counts, on a workdir that was made by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from ad3d_jax.workdir import maps, names
from ad3d_jax.workdir.calibration import Calibration, write_calibration
from ad3d_jax.workdir.scores import Row, write_scores
from experiments.benchmarks import false_alarms, false_alarms_chosen
from experiments.benchmarks.selection import grids


@pytest.fixture
def folder(tmp_path):
    """Returns a workdir of 40 good parts that score 0 … 39, in a drawn order."""
    values = np.random.default_rng(0).permutation(40).astype(np.float32)
    rows = [
        Row("bun", "good", f"{i:03}", i, 0, float(x), 0.1, (i % 11 + 1) / 11, "good")
        for i, x in enumerate(values)
    ]
    (tmp_path / "maps").mkdir()
    write_scores(tmp_path / names.SCORES, rows)
    some = values[:, None, None] * np.ones((2, 2), np.float32) / 10
    maps.write_maps(tmp_path / names.MAPS, rows, some, some < 0)
    return tmp_path


def test_halves_are_judged_by_each_other(folder):
    found = list(false_alarms.halves("a", "validation", folder))
    assert [(each.of, each.alpha) for each in found] == [
        *(("image", 0.1), ("image", 0.05), ("peak", 0.1), ("peak", 0.05)),
    ]
    first = found[0]
    assert first.rates == found[2].rates  # maps rank the parts alike
    assert (first.calibrate, first.judged, len(first.rates)) == (20, 20, 20)
    assert first.most == pytest.approx(2 / 21)  # of 21 ranks two are alarms
    order = np.random.default_rng(0).permutation(40)
    scores = false_alarms.scores_of(folder)["image"]
    limit = np.sort(scores[order[:20]])[18]  # the 19th of ⌈21 x .9⌉
    assert first.rates[0] == np.mean(scores[order[20:]] > limit)
    assert first.within and "| yes |" in false_alarms.table(found)


def test_folds_have_a_bound_and_a_broken_promise_is_told(folder):
    fold = np.arange(10, dtype=np.int32) % 5
    ones = np.ones(10, np.float32)
    own = ("folds", tuple("abcdefghij"), ones, ones, fold, 0.0, 1.0)
    (folder / names.CHECKPOINTS).mkdir()
    write_calibration(folder / names.CALIBRATION, Calibration(*own))
    found = next(false_alarms.whole("a", "folds", folder))
    assert found.limits is None and found.rates == (4 / 40,)  # p-values up to .1
    assert (
        found.most == pytest.approx(0.2 + 1 / 12) and found.within
    )  # (1 - K/n)/(K + 1)
    broken = found._replace(rates=(0.9,))
    assert not broken.within and "**no**" in false_alarms.table([broken])


def test_what_planted_defects_choose_is_fitted_and_judged(tmp_path, monkeypatch):
    best = {"model.layers": ["layer1"], "model.patch_size": 5}  # as JSON has it
    asked, judged = [], []

    def study(config, axes, **settings):
        asked.append((config, axes, settings))
        return SimpleNamespace(best=best)

    monkeypatch.setattr(false_alarms_chosen, "study", study)
    monkeypatch.setattr(
        false_alarms, "judged", lambda *given: judged.append(given) or iter([7])
    )
    texts = ["data.image_size=64"]
    found = list(
        false_alarms_chosen.chosen("patchcore", "held_out", "w.st", texts, tmp_path)
    )
    (config, axes, settings), (title, source, chosen, _) = asked[0], judged[0]
    assert found == [7] and (source, settings["sampler"]) == ("held_out", "grid")
    assert title == "patchcore: layer1 5, of 12"
    assert axes is grids.GRIDS["patchcore"].axes
    # One class and one share that calibrates, for the study and for the last fit.
    assert config.data == chosen.data and config.calibration == chosen.calibration
    assert chosen.calibration.source == "held_out" and chosen.data.image_size == 64
    assert (chosen.model.layers, chosen.model.patch_size) == (("layer1",), 5)
    assert config.model.fraction == chosen.model.fraction == 0.02
    assert chosen.weights.backbone == "w.st"
