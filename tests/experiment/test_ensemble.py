"""Two detectors as one: what it says, keeps, exports and refuses."""

import copy
import importlib.util
import types

import numpy as np
import pytest

import ad3d_jax as ad
from ad3d_jax.experiment.data import data_folder
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.inspect import inspect
from ad3d_jax.workdir import names
from ad3d_jax.workdir.json_files import read_json
from ad3d_jax.workdir.predictions import Predictions
from ad3d_jax.workdir.scores import read_scores
from data_pipelines.decode import read_rgb, read_xyz
from experiments import ensemble as command

COMMON = {
    **{"data.reader": "resident", "fit.engine": "jit", "eval.alpha": 0.2},
    **{"data.sample_set.train": 4, "data.sample_set.validation": 6},
    **{"data.sample_set.test_good": 3, "data.sample_set.test_per_defect": 1},
    **{"eval.images_per_defect": 1, "eval.batch_size": 1},
}
OF = {
    "btf:raw": {
        **{"model.fraction": 1.0, "model.cells": 8, "model.precision": "float32"},
        "data.image_size": 32,
    },
    "patchcore:tiny": {
        **{"data.recipe": "raw", "model.modalities": ("rgb",)},
        "data.image_size": 40,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ensemble")


@pytest.fixture(scope="module")
def runs(folder):
    """Returns runs of two systems on one class; the first is evaluated, too."""
    cache, found = {"data.cache": str(folder / "cache")}, []
    # One sample set for both: its size is that of the images where none is named.
    first = {**COMMON, **OF["btf:raw"], **cache}
    made = ad.Experiment("btf:raw", category="bun", workdir=folder / "btf", set=first)
    root, _ = data_folder(made.config)
    for name, own in OF.items():
        fields = {**COMMON, **own, **cache}
        workdir = folder / name.partition(":")[0]
        found.append(
            ad.Experiment(name, data=root, category="bun", workdir=workdir, set=fields)
        )
        found[-1].fit()
    found[0].evaluate()
    return found


@pytest.fixture(scope="module")
def made(folder, runs):
    """Returns the ensemble, evaluated by the command, and what was printed of it."""
    values = types.SimpleNamespace(
        members=[str(run.workdir) for run in runs],
        workdir=str(folder / "both"),
        set=["eval.alpha=0.25"],
    )
    command.main(values)
    return ad.load(folder / "both")


@pytest.fixture(scope="module")
def rows(folder, made):
    return read_scores(folder / "both" / names.SCORES)


def frame_of(made, row):
    root, category = data_folder(made.members[0].detector.config)
    place = root / category / "test" / row.defect
    rgb = read_rgb(place / "rgb" / f"{row.stem}.png")
    return {"rgb": rgb, "xyz": read_xyz(place / "xyz" / f"{row.stem}.tiff")[0]}


def p_of(good, score):
    """Returns a p-value among good scores as the page on ensembles says it."""
    falling = sorted(map(float, good), reverse=True)
    if score > falling[0]:
        most = int(np.ceil(np.sqrt(len(falling))))
        excess = np.mean(falling[:most]) - falling[most]
        return 2 / (len(good) + 1) * np.exp(-(score - falling[0]) / excess)
    for rank in range(len(falling) - 1):
        high, low = falling[rank], falling[rank + 1]
        if score > low:
            share = (score - low) / (high - low)
            ends = (rank + 2) / (len(good) + 1), (rank + 3) / (len(good) + 1)
            return ends[0] ** share * ends[1] ** (1 - share)
    return 1.0


def test_good_samples_are_judged_by_the_others(made):
    image = [member.detector.calibration.image for member in made.members]
    assert len(image[0]) == 6
    for i, found in enumerate(made.calibration.image):
        p = [p_of(np.delete(own, i), float(own[i])) for own in image]
        expected = -np.log(2 / (1 / p[0] + 1 / p[1]))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert made.calibration.names == made.members[1].detector.calibration.names
    assert (made.calibration.peak > 0).all() and made.calibration.folds == 1


def test_python_and_files_say_the_same_bit_for_bit(folder, made, rows):
    assert made.size == (32, 32) and made.config.eval.alpha == 0.25
    for row in rows:
        found = made.score(**frame_of(made, row))
        assert f"{found.image:.9g}" == f"{row.score:.9g}"
        kept = np.load(folder / "both" / names.MAPS / f"{row.name}.npz")["map"]
        np.testing.assert_array_equal(found.map[..., 0], kept)
        assert found.decision.p_value == pytest.approx(row.p_value, rel=1e-5)
        assert ("good", "defective")[int(found.decision.defective)] == row.verdict
        assert sorted(found.parts) == ["map_btf-raw", "map_patchcore-tiny"]


def test_the_metrics_have_the_members_beside_the_ensemble(folder, runs, made, rows):
    metrics = read_json(folder / "both" / names.METRICS)
    alone = runs[0].metrics
    own = metrics["members"]["btf-raw"]
    for name in ("i_auroc", "p_auroc", "aupro_30", "false_alarm_rate"):
        assert own[name] == pytest.approx(alone[name], rel=1e-6), name
    assert own.keys() == metrics["members"]["patchcore-tiny"].keys()
    assert metrics["system"] == "ensemble" and metrics["alpha"] == 0.25
    good = [row.verdict == "defective" for row in rows if row.label == 0]
    assert metrics["false_alarm_rate"] == pytest.approx(np.mean(good))
    assert metrics["calibration"]["bound"] == 0.25
    page = (folder / "both" / names.REPORT / names.PAGE).read_text()
    assert "Each member of the ensemble by itself" in page
    assert "patchcore-tiny" in page.partition("by itself")[2]


def test_a_batch_and_a_copy_score_alike(made, rows, tmp_path):
    frames = [frame_of(made, row) for row in rows[:2]]
    batch = {name: np.stack([f[name] for f in frames]) for name in frames[0]}
    found = made.score(**batch)
    again = ad.load(made.save(tmp_path / "copy")).score(**batch)
    assert found.map.shape == (2, 32, 32, 1)
    for one, other in zip(found.decision, again.decision, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.map, again.map)
    prepared = made.score_batch(made.prepare(**batch))
    np.testing.assert_array_equal(prepared.image, found.image)
    with pytest.raises(ValueError, match="needs rgb"):
        made.score(xyz=frames[0]["xyz"])
    with pytest.raises(ValueError, match="needs xyz"):
        made.score(rgb=frames[0]["rgb"])


def test_a_folder_is_predicted(folder, made, rows, tmp_path):
    root, category = data_folder(made.members[0].detector.config)
    row = rows[0]
    path = inspect(
        *(folder / "both", root / category / "test" / row.defect, tmp_path), alpha=0.25
    )
    found = {each.name: each for each in Predictions(path)}
    assert found[row.stem].score == pytest.approx(row.score, rel=1e-5)
    assert found[row.stem].verdict == row.verdict
    with pytest.raises(ValueError, match="an ensemble cannot score by tiles"):
        inspect(folder / "both", tmp_path, tmp_path / "x", tile=64)


def test_an_export_has_the_same_bits(made, rows, tmp_path):
    export = made.export(tmp_path / "export", alpha=0.25)
    spec = importlib.util.spec_from_file_location("exported", export / "score.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    scorer = script.Scorer()
    for row in (rows[0], rows[-1]):
        frame = frame_of(made, row)
        found, expected = scorer.score(**frame), made.score(**frame, alpha=0.25)
        assert found.score == float(expected.image)
        np.testing.assert_array_equal(found.map, expected.map[..., 0])
        assert found.p_value == float(expected.decision.p_value)
        assert found.verdict == row.verdict
        assert found.boxes == tuple(map(tuple, expected.decision.boxes))
        for name, part in expected.parts.items():
            np.testing.assert_array_equal(found.parts[f"parts/{name}"], part)
    with pytest.raises(ValueError, match="found \\['xzy'\\]"):
        scorer.score(rgb=frame["rgb"], xzy=frame["xyz"])
    made.export(export)  # takes the place of an earlier one
    (export / script.TAILS).write_bytes(b"")
    with pytest.raises(ValueError, match="surprise.npz: missing or damaged"):
        script.Scorer(export)


def test_the_same_call_opens_what_is_there_and_another_is_refused(folder, runs, made):
    workdirs = [run.workdir for run in runs]
    again = ad.ensemble(workdirs, folder / "both")
    np.testing.assert_array_equal(again.calibration.image, made.calibration.image)
    with pytest.raises(ValueError, match="the configuration of this run has changed"):
        ad.ensemble(workdirs[::-1], folder / "both")
    with pytest.raises(ValueError, match="the configuration of this run has changed"):
        ad.ensemble(workdirs, workdirs[0])
    with pytest.raises(ValueError, match="is an ensemble; name its members"):
        ad.ensemble([folder / "both", workdirs[0]], folder / "new")


def changed(own: Detector, **values):
    """Returns the detector with other attributes."""
    other = copy.copy(own)
    for name, value in values.items():
        setattr(other, name, value)
    return other


def other_class(own):
    config = own.config.copy_and_resolve_references()
    config.data.category = "rope"
    return changed(own, config=config)


def cropped(own):
    params = {**own.recipe["params"], "resize_size": 64}
    return changed(own, recipe={**own.recipe, "params": params})


def calibrated(own, **values):
    return changed(own, calibration=own.calibration._replace(**values))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda own: changed(own, calibration=None), "expected a calibrated detector"),
        (lambda own: calibrated(own, fold=np.arange(6) % 3), "source=folds: 3 models"),
        (lambda own: calibrated(own, names=("good/0", "good/1")), "3 or more good"),
        (lambda own: calibrated(own, names=tuple("abcdef")), "the samples that calib"),
        (lambda own: calibrated(own, source="held_out"), "calibration.source: expec"),
        (other_class, "class: expected bun as btf-raw has, found rope"),
        (cropped, "found another crop"),
        (lambda own: changed(own, recipe={"recipe": "points", "params": {}}), "lists"),
    ],
)
def test_what_does_not_fit_together_is_named(runs, tmp_path, change, words):
    first, second = (run.detector for run in runs)
    with pytest.raises(ValueError, match=f"member patchcore-tiny.*{words}"):
        ad.ensemble([first, change(second)], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_one_member_and_fields_of_a_fit_are_refused(runs, tmp_path):
    own = runs[0].detector
    with pytest.raises(ValueError, match="expected two or more, found 1"):
        ad.ensemble([own], tmp_path / "new")
    with pytest.raises(ValueError, match="a fit does not depend on"):
        ad.ensemble([own, own], tmp_path / "new", set={"data.image_size": 64})


def test_two_of_one_configuration_have_names_of_their_own(runs, tmp_path):
    own = runs[0].detector
    found = ad.ensemble([own, own], tmp_path / "new")
    assert [member.name for member in found.members] == ["btf-raw", "btf-raw-2"]
    for one, other in zip(*(member.image for member in found.members), strict=True):
        np.testing.assert_array_equal(one, other)
