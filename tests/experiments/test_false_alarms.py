"""The benchmark's counts, on a workdir that was made by hand."""

import numpy as np
import pytest

from ad3d_jax.workdir import maps, names
from ad3d_jax.workdir.calibration import Calibration, write_calibration
from ad3d_jax.workdir.scores import Row, write_scores
from experiments.benchmarks import false_alarms


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
