"""A fitted state and what is said of it cannot drift apart."""

import csv
import json
import shutil

import numpy as np
import pytest
import tifffile

from ad3d_jax.experiment import run
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.data import data_folder
from ad3d_jax.experiment.detector import load as load_detector
from ad3d_jax.workdir import names
from ad3d_jax.workdir.checkpoint import has_tree
from ad3d_jax.workdir.folder import WorkdirError
from data_pipelines.decode import read_rgb, read_xyz


def configured(cache, root=""):
    config = load("patchcore:tiny")
    config.data.cache = str(cache)
    config.data.root, config.data.category = str(root), "bun"
    config.fit.engine = "jit"
    return config


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A cache, a class, and the class on a table at twice the height."""
    cache = tmp_path_factory.mktemp("cache")
    root, category = data_folder(configured(cache))
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(root / category, other / category)
    for file in (other / category).rglob("xyz/*.tiff"):
        xyz = tifffile.imread(file)
        z = xyz[..., 2:]
        table = np.max(z)
        higher = np.where(z > 0, table - 2 * (table - z), 0)
        tifffile.imwrite(file, xyz * np.where(z > 0, higher / np.maximum(z, 1e-9), 0))
    return cache, root, other


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory):
    cache, root, _ = places
    folder = tmp_path_factory.mktemp("finished") / "run"
    run.run(configured(cache, root), folder)
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def scores(folder):
    with open(folder / names.SCORES, newline="") as file:
        return [
            (row["defect"], row["stem"], row["score"]) for row in csv.DictReader(file)
        ]


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in (folder / names.CHECKPOINTS).rglob("*")
        if path.is_file()
    }


def test_what_a_state_comes_from_lies_beside_it(finished, places):
    _, root, _ = places
    origin = json.loads((finished / names.ORIGIN).read_text())
    assert origin["config"]["model"]["fraction"] == 0.5
    assert origin["recipe"]["recipe"] == "ast"
    assert origin["recipe"]["params"]["height_max"] > 0
    assert origin["data"]["train"]["samples"] == 6
    assert len(origin["data"]["train"]["sha256"]) == 64
    assert not (finished / "recipe.json").exists()


@pytest.mark.parametrize("mode", ["fit", "fit_eval", "eval"])
def test_a_field_of_a_fitted_state_cannot_be_changed_even_if_allowed(
    copied, places, mode
):
    cache, root, _ = places
    before, config = contents(copied), configured(cache, root)
    config.model.fraction = 0.25
    with pytest.raises(WorkdirError, match=r"model\.fraction: 0\.5 -> 0\.25"):
        run.run(config, copied, mode, allow=["model.fraction"])
    assert contents(copied) == before


def test_a_fit_on_other_data_is_refused_with_what_differs(copied, places):
    cache, _, other = places
    before = contents(copied)
    with pytest.raises(WorkdirError) as refused:
        run.run(configured(cache, other), copied, "fit_eval", allow=["data.root"])
    assert "data.train.sha256: " in str(refused.value)
    assert "recipe.params.height_max: " in str(refused.value)
    assert contents(copied) == before


def test_the_same_data_elsewhere_are_the_same_data(copied, places, tmp_path):
    cache, root, _ = places
    shutil.copytree(root / "bun", tmp_path / "moved" / "bun")
    before = scores(copied)
    config = configured(cache, tmp_path / "moved")
    run.run(config, copied, "fit_eval", allow=["data.root"])
    assert scores(copied) == before


def test_an_evaluation_on_other_data_uses_what_the_recipe_had_learned(copied, places):
    cache, root, other = places
    before = contents(copied)
    detector = load_detector(copied)
    expected = {}
    for folder in sorted((other / "bun" / "test").iterdir()):
        for file in sorted((folder / "xyz").iterdir()):
            rgb = read_rgb(folder / "rgb" / f"{file.stem}.png")
            found = detector.score(rgb=rgb, xyz=read_xyz(file)[0])
            expected[folder.name, file.stem] = float(found.image)
    run.run(configured(cache, other), copied, "eval", allow=["data.root"])
    for defect, stem, score in scores(copied):
        assert float(score) == pytest.approx(expected[defect, stem], rel=1e-5)
    assert contents(copied) == before


def test_a_state_that_was_saved_half_is_fitted_to_its_end(copied, places):
    cache, root, _ = places
    before = scores(copied)
    (step,) = (copied / names.FINAL).iterdir()
    step.rename(step.with_name(f"{step.name}.orbax-checkpoint-tmp-7"))
    assert not has_tree(copied / names.FINAL)
    config = configured(cache, root)
    with pytest.raises(ValueError, match="no fitted state; fit first"):
        run.run(config, copied, "eval")
    run.run(config, copied)
    assert has_tree(copied / names.FINAL) and scores(copied) == before


def test_a_workdir_in_which_nothing_has_run_takes_any_configuration(places, tmp_path):
    cache, root, _ = places
    wrong = configured(cache, root / "nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        run.run(wrong, tmp_path / "run", "fit")
    run.run(configured(cache, root), tmp_path / "run", "fit")
    assert has_tree(tmp_path / "run" / names.FINAL)


def test_a_state_without_its_origin_is_refused(copied):
    (copied / names.ORIGIN).unlink()
    with pytest.raises(WorkdirError, match=r"origin\.json"):
        load_detector(copied)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "expected a JSON object"),
        ("{}", "there is no 'config' in it"),
        ('{"config": {}}', "there is no 'recipe' in it"),
    ],
)
def test_a_damaged_origin_is_named(copied, text, words):
    (copied / names.ORIGIN).write_text(text)
    with pytest.raises(ValueError, match=rf"origin\.json: {words}"):
        load_detector(copied)
