"""Good samples that no fit saw: which they are, what they say, what is kept of them."""

import json

import numpy as np
import pytest

import ad3d_jax as ad
from ad3d_jax.experiment import calibrate, fitting
from ad3d_jax.experiment.config import changed, load
from ad3d_jax.experiment.data import open_data
from ad3d_jax.experiment.population import population
from ad3d_jax.experiment.state import build_system
from ad3d_jax.metrics import conformal
from ad3d_jax.workdir import names
from ad3d_jax.workdir.calibration import read_calibration
from ad3d_jax.workdir.scores import read_scores
from data_pipelines.errors import DatasetError

SMALL = {
    **{"model.fraction": 1.0, "model.cells": 8, "model.precision": "float32"},
    **{"data.image_size": 32, "data.reader": "resident", "fit.engine": "jit"},
    **{"data.sample_set.train": 10, "data.sample_set.validation": 4},
    **{"data.sample_set.test_good": 3, "data.sample_set.test_per_defect": 1},
    **{"eval.images_per_defect": 1, "eval.alpha": 0.2, "calibration.folds": 3},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def experiment(cache, workdir, **fields):
    named = {name.replace("__", "."): value for name, value in fields.items()}
    own = {**SMALL, "data.cache": cache, **named}
    return ad.Experiment("btf:raw", category="bun", workdir=workdir, set=own)


@pytest.fixture(scope="module", params=["validation", "held_out", "folds"])
def finished(request, cache, tmp_path_factory):
    """Returns a run that was fitted and evaluated, by each source."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    made = experiment(cache, folder, calibration__source=request.param)
    made.fit()
    made.evaluate()
    return made


def test_the_scores_are_those_of_the_samples_that_are_named(finished):
    kept = read_calibration(finished.workdir / names.CALIBRATION)
    count = {"validation": 4, "held_out": 2, "folds": 10}[kept.source]
    assert len(kept.names) == count and kept.folds == (3 if count == 10 else 1)
    data = open_data(finished.config, finished.system)
    assert data.dataset.size("train") == (8 if kept.source == "held_out" else 10)
    split = "validation" if kept.source == "validation" else "train"
    rows = {f"{row['defect']}/{row['stem']}": row for row in data.prepared.rows(split)}
    numbers = [list(rows).index(name) for name in kept.names]
    assert numbers == sorted(numbers)
    detector = finished.detector
    for state in range(kept.folds):
        own = np.flatnonzero(kept.fold == state)
        whole = open_data(
            changed(finished.config, {"calibration.source": "none"}), finished.system
        )
        some = whole.dataset.only(split, np.array(numbers)[own])
        score = (
            detector._compiled_folds[state] if detector.folds else detector._compiled
        )
        (batch,) = some.ordered(split, len(own), 0)
        found = score(batch)
        np.testing.assert_allclose(found.image, kept.image[own], rtol=1e-6)
        np.testing.assert_allclose(
            found.map.max(axis=(1, 2, 3)), kept.peak[own], rtol=1e-6
        )


def test_what_is_held_out_is_in_no_fit(finished):
    """A bank of raw pixels holds a zero distance to each sample that it was made of."""
    kept = read_calibration(finished.workdir / names.CALIBRATION)
    assert kept.image.min() > 1e-4
    data = open_data(finished.config, finished.system)
    (batch,) = data.dataset.ordered("train", data.dataset.size("train"), 0)
    assert finished.detector.score_batch(batch).image.max() < 1e-4


def test_files_and_python_give_one_decision(finished):
    metrics, rows = finished.metrics, read_scores(finished.workdir / names.SCORES)
    kept = read_calibration(finished.workdir / names.CALIBRATION)
    detector = finished.detector
    data = open_data(finished.config, finished.system)
    (batch,) = data.dataset.ordered("test", len(rows), 0)
    batch = batch._replace(mask=None, label=None)
    decision = detector.decide(batch, detector.score_batch(batch))
    np.testing.assert_allclose([row.p_value for row in rows], decision.p_value, 1e-5)
    if decision.defective is None:  # of 2 samples
        assert kept.source == "held_out" and "too few" in metrics["notes"]["threshold"]
        assert metrics["false_alarm_rate"] is None and {r.verdict for r in rows} == {""}
    else:
        verdicts = [row.verdict == "defective" for row in rows]
        assert verdicts == decision.defective.tolist()
        good = [row.verdict == "defective" for row in rows if row.label == 0]
        assert metrics["false_alarm_rate"] == pytest.approx(np.mean(good))
        assert [r.boxes for r in rows] == [
            tuple(box[:4] for box in boxes) for boxes in decision.boxes
        ]
    assert metrics["calibration"]["samples"] == len(kept.names)
    expected = conformal.bound(len(kept.names), kept.folds, 0.2)
    assert metrics["calibration"]["bound"] == pytest.approx(expected)


def test_a_saved_detector_decides_alike(finished, tmp_path):
    detector = finished.detector
    random = np.random.default_rng(1)
    rgb = random.integers(0, 255, (48, 48, 3), np.uint8)
    rows, columns = np.mgrid[:48, :48].astype(np.float32) / 480
    xyz = np.stack([columns, rows, 0.3 + rows * columns], -1)
    found = detector.score(rgb, xyz, alpha=0.4)
    again = ad.load(detector.save(tmp_path / "copy")).score(rgb, xyz, alpha=0.4)
    assert found.decision.alpha == 0.4
    for one, other in zip(found.decision, again.decision, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="alpha: expected a rate"):
        detector.score(rgb, xyz, alpha=1)


def test_a_stopped_calibration_goes_on_and_a_finished_one_is_not_repeated(
    cache, tmp_path, monkeypatch
):
    made = experiment(cache, tmp_path / "run", calibration__source="folds")
    original, seen = calibrate.score_good, []

    def stopped(score, dataset, size, numbers):
        seen.append(len(numbers))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return original(score, dataset, size, numbers)

    monkeypatch.setattr(calibrate, "score_good", stopped)
    with pytest.raises(KeyboardInterrupt):
        made.fit()
    fits, fit = [], fitting.fit
    monkeypatch.setattr(fitting, "fit", lambda *a, **k: fits.append(0) or fit(*a, **k))
    made.fit()
    assert len(fits) == 1  # the whole and two folds were there
    made.fit()
    assert len(fits) == 1 and len(seen) == 2 + 3


def test_without_validation_samples_some_of_train_are_held_out(cache, tmp_path):
    own = {"data__sample_set__validation": 0}
    made = experiment(cache, tmp_path / "a", **own)
    data = open_data(made.config, made.system)
    assert data.calibration.source == "held_out" and data.dataset.size("train") == 8
    sizes = [data.dataset.size(name) for name in ("train_all", "calibration")]
    assert sizes == [8, 2]
    other = experiment(cache, tmp_path / "b", **own, calibration__source="validation")
    with pytest.raises(DatasetError, match="bun has no validation split"):
        other.fit()


def test_one_training_sample_is_fitted_on_and_nothing_is_decided(cache, tmp_path):
    one = {"data__sample_set__validation": 0, "data__sample_set__train": 1}
    made = experiment(cache, tmp_path / "a", **one)
    made.fit()
    metrics = made.evaluate()
    assert metrics["calibration"] is None
    assert "too few to hold some out" in metrics["notes"]["calibration"]
    assert made.detector.calibration is None


def test_a_population_has_no_folds_and_its_members_are_calibrated(cache, tmp_path):
    config = changed(
        load("simplenet:tiny"),
        {**{n: x for n, x in SMALL.items() if "model" not in n}, "data.cache": cache},
    )
    config = changed(config, {"data.category": "bun"})
    folds = changed(config, {"calibration.source": "folds"})
    with pytest.raises(ValueError, match="members of a population are fitted once"):
        population(folds, {"seed": [0, 1]}, tmp_path / "a")
    found = population(config, {"seed": [0, 1]}, tmp_path / "b")
    for folder in found:
        text = (folder / names.METRICS).read_text()
        assert json.loads(text)["calibration"]["samples"] == 4


def test_a_phase_that_reads_what_calibrates_is_refused(cache, tmp_path):
    made = experiment(cache, tmp_path / "a")
    data = open_data(made.config, made.system)
    (phase, *_) = made.system.phases
    reads = made.system._replace(phases=(phase._replace(source="validation"),))
    with pytest.raises(ValueError, match="calibration.source=validation: phase"):
        calibrate.check(reads, data)
    every = build_system(load("dsr:tiny"))
    folds = data._replace(calibration=data.calibration._replace(source="folds"))
    reads = every._replace(phases=(phase._replace(source="train_all"),))
    with pytest.raises(ValueError, match="calibration.source=folds: phase"):
        calibrate.check(reads, folds)
