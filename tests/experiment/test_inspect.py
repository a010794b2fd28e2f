"""Prediction of a folder: every sample, under a name of its own, or named."""

import csv
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ad3d_jax.experiment import detector, run
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.data import data_folder
from ad3d_jax.experiment.detector import load as load_detector
from ad3d_jax.experiment.inspect import inspect
from ad3d_jax.workdir import names
from ad3d_jax.workdir.arrays import write_arrays
from ad3d_jax.workdir.disk import DiskFullError
from data_pipelines.unlabelled import read_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = load("padim:tiny+rgb")
    config.data.recipe = "raw"
    config.data.cache = str(tmp_path_factory.mktemp("cache"))
    config.fit.engine = "jit"
    folder = tmp_path_factory.mktemp("finished") / "run"
    run.run(config, folder, "fit")
    root, category = data_folder(config)
    return folder, sorted((root / category / "test" / "good" / "rgb").iterdir())


@pytest.fixture
def inbox(finished, tmp_path):
    """Images whose names differ behind the last dot, or by their ending alone."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    _, (first, second, third) = finished
    for name in ("part.000.png", "part.001.png", "twin.png"):
        shutil.copy(first, folder / name)
    Image.open(second).save(folder / "part.002.png")
    Image.open(third).save(folder / "twin.bmp")
    return folder


def scores(path):
    with open(path, newline="") as file:
        return {row["name"]: float(row["score"]) for row in csv.DictReader(file)}


def test_every_sample_has_a_score_and_images_of_its_own(finished, inbox, tmp_path):
    found = scores(inspect(finished[0], inbox, tmp_path / "out"))
    given = {path.name for path in inbox.iterdir()}
    assert found.keys() == given
    assert found["part.000.png"] == found["twin.png"] != found["twin.bmp"]
    for folder in ("heat_maps", "overlays"):
        made = {path.name for path in (tmp_path / "out" / folder).iterdir()}
        assert made == {f"{name}.png" for name in given}


def test_stems_are_names_where_they_tell_samples_apart(finished, inbox, tmp_path):
    (inbox / "twin.bmp").unlink()
    found = scores(inspect(finished[0], inbox, tmp_path / "out"))
    assert found.keys() == {"part.000", "part.001", "part.002", "twin"}


def test_a_file_that_cannot_be_read_costs_no_other(finished, inbox, tmp_path):
    expected = scores(inspect(finished[0], inbox, tmp_path / "before"))
    (inbox / "part.001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 5 samples.*\n.*part\.001\.png: "):
        inspect(finished[0], inbox, tmp_path / "out")
    del expected["part.001.png"]
    assert scores(tmp_path / "out" / "scores.csv") == expected


def test_what_a_folder_holds_is_checked_as_arrays_are(
    finished, inbox, tmp_path, monkeypatch
):
    def refuse(batch):
        raise ValueError(f"checked {batch.rgb.shape}")

    monkeypatch.setattr(detector, "check_batch", refuse)
    with pytest.raises(ValueError, match=r"checked \(1, "):
        inspect(finished[0], inbox, tmp_path / "out")


def test_an_image_of_other_proportions_is_refused(finished, inbox, tmp_path):
    image = Image.open(inbox / "twin.png")
    width, height = image.size
    image.resize((2 * width, 2 * height)).save(inbox / "part.001.png")
    image.resize((2 * width, height)).save(inbox / "part.002.png")
    with pytest.raises(ValueError, match=r"1 of 5 samples.*\n.*part\.002.*proportions"):
        inspect(finished[0], inbox, tmp_path / "out")
    detector = load_detector(finished[0])
    wide = np.zeros((height, 2 * width, 3), np.uint8)
    with pytest.raises(ValueError, match=f"found {height} x {2 * width}"):
        detector.score(rgb=wide)


def test_a_map_that_is_damaged_is_named(finished, inbox, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / names.MAPS).mkdir(exist_ok=True)
    write_arrays(workdir / names.MAPS / "good_000.npz", {"score": np.zeros((8, 8))})
    with pytest.raises(ValueError, match=r"good_000\.npz: there is no 'map' in it"):
        inspect(workdir, inbox, tmp_path / "out")


def test_an_image_with_two_files_of_points_is_refused(finished, inbox, tmp_path):
    for path in sorted(inbox.glob("*.png")):
        shutil.copy(path, path.with_suffix(".tiff"))
    with pytest.raises(ValueError, match="twin"):
        read_folder(inbox, "raw", {}, ("rgb", "xyz"))


def test_a_full_disk_leaves_no_scores_of_another_time(
    finished, inbox, tmp_path, monkeypatch
):
    def full(_):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    expected = scores(inspect(finished[0], inbox, out))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match=f"^{out}/heat_maps/.*: no space is"):
            inspect(finished[0], inbox, out)
    assert not (out / "scores.csv").exists()
    assert scores(inspect(finished[0], inbox, out)) == expected
