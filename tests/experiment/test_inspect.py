"""Prediction of a folder: every sample, under a name of its own, or named."""

import csv
import os
import shutil
import signal

import numpy as np
import pytest
import tifffile
from PIL import Image

from ad3d_jax.experiment import detector, run
from ad3d_jax.experiment import inspect as inspection
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.data import data_folder
from ad3d_jax.experiment.detector import load as load_detector
from ad3d_jax.experiment.inspect import inspect
from ad3d_jax.experiment.prediction.inbox import Inbox, due
from ad3d_jax.experiment.prediction.inspector import Inspector
from ad3d_jax.experiment.status import Stopped
from ad3d_jax.ops.resize import at_size
from ad3d_jax.workdir import names
from ad3d_jax.workdir.arrays import write_arrays
from ad3d_jax.workdir.disk import DiskFullError
from ad3d_jax.workdir.predictions import Prediction, Predictions
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


def rows(path):
    with open(path, newline="") as file:
        found = list(csv.DictReader(file))
    by_name = {row["name"]: row for row in found}
    assert len(by_name) == len(found)  # one row a sample
    return by_name


def scores(path):
    return {n: float(row["score"]) for n, row in rows(path).items() if row["score"]}


@pytest.fixture
def scored(monkeypatch):
    """Returns the names of the samples that are scored from here on."""
    names, write = [], inspection.write_images

    def noted(output, name, *rest):
        names.append(name)
        write(output, name, *rest)

    monkeypatch.setattr(inspection, "write_images", noted)
    return names


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
    found = tmp_path / "out" / "scores.csv"
    assert scores(found) == expected
    assert "part.001.png" in rows(found)["part.001.png"]["error"]
    # It stays a fault, though nothing is left to do, until the file is whole.
    with pytest.raises(ValueError, match=r"1 of 5 samples"):
        inspect(finished[0], inbox, tmp_path / "out")
    shutil.copy(inbox / "part.000.png", inbox / "part.001.png")
    inspect(finished[0], inbox, tmp_path / "out")
    row = rows(found)["part.001.png"]
    assert row["score"] == rows(found)["part.000.png"]["score"] and not row["error"]


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
    (workdir / names.CALIBRATION).unlink()  # then colours are those of test maps
    (workdir / names.MAPS).mkdir(exist_ok=True)
    write_arrays(workdir / names.MAPS / "good_000.npz", {"score": np.zeros((8, 8))})
    with pytest.raises(ValueError, match=r"good_000\.npz: there is no 'map' in it"):
        inspect(workdir, inbox, tmp_path / "out")


def test_an_image_with_two_files_of_points_is_refused(finished, inbox, tmp_path):
    for path in sorted(inbox.glob("*.png")):
        shutil.copy(path, path.with_suffix(".tiff"))
    with pytest.raises(ValueError, match="twin"):
        read_folder(inbox, "raw", {}, ("rgb", "xyz"))


def test_a_prediction_goes_on_where_it_was(finished, inbox, tmp_path, scored):
    expected = scores(inspect(finished[0], inbox, tmp_path / "whole"))
    out = tmp_path / "out"
    inspect(finished[0], inbox, out)
    path = out / "scores.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:9])  # killed while it wrote
    scored.clear()
    assert scores(inspect(finished[0], inbox, out)) == expected
    assert scored == sorted(expected)[2:]
    scored.clear()
    shutil.copy(inbox / "part.002.png", inbox / "part.000.png")
    found = scores(inspect(finished[0], inbox, out))
    assert scored == ["part.000.png"]
    assert found == {**expected, "part.000.png": expected["part.002.png"]}


def test_a_full_disk_is_named_and_the_prediction_goes_on(
    finished, inbox, tmp_path, monkeypatch
):
    out, write = tmp_path / "out", inspection.write_images

    def full(_):
        raise OSError(28, "No space left on device")

    def fills_up(output, name, *rest):
        write(output, name, *rest)
        if name == "part.001.png":
            patch.setattr(os, "fsync", full)

    with monkeypatch.context() as patch:
        patch.setattr(inspection, "write_images", fills_up)
        with pytest.raises(DiskFullError, match=f"^{out}/scores.csv: no space is"):
            inspect(finished[0], inbox, out)
    expected = scores(inspect(finished[0], inbox, tmp_path / "whole"))
    assert scores(inspect(finished[0], inbox, out)) == expected


def test_a_stopped_prediction_says_so(finished, inbox, tmp_path, monkeypatch, scored):
    def stop(self, sample, inspected=Inspector.inspected):
        if sample.name == "part.001.png":
            signal.raise_signal(signal.SIGTERM)
        return inspected(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(Inspector, "inspected", stop)
        with pytest.raises(Stopped):
            inspect(finished[0], inbox, tmp_path / "out")
        assert scored == ["part.000.png", "part.001.png"]
        watched = inspect(finished[0], inbox, tmp_path / "watched", watch=True)
        assert list(scores(watched)) == scored[2:] == scored[:2]
        del scored[2:]
    inspect(finished[0], inbox, tmp_path / "out")
    assert scored == sorted(path.name for path in inbox.iterdir())


def test_what_was_made_with_something_else_is_refused(finished, inbox, tmp_path):
    out = tmp_path / "out"
    inspect(finished[0], inbox, out)
    before = (out / "scores.csv").read_bytes()
    with pytest.raises(ValueError, match=r"alpha: 0\.05 -> 0\.2"):
        inspect(finished[0], inbox, out, alpha=0.2)
    assert (out / "scores.csv").read_bytes() == before
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    with pytest.raises(ValueError, match="found config.json"):
        inspect(workdir, inbox, workdir)
    with pytest.raises(ValueError, match="raw: expected one of npy, tiff, found 'png'"):
        inspect(workdir, inbox, out, raw="png")
    with pytest.raises(ValueError, match="alpha"):
        inspect(workdir, inbox, out, alpha=1.5)


def test_images_and_maps_have_the_size_of_the_upright_picture(
    finished, tmp_path, caplog
):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    picture = Image.open(finished[1][0])
    large = picture.resize((90, 90))
    large.save(inbox / "upright.png")
    tag = Image.Exif()
    tag[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = large.transpose(Image.Transpose.ROTATE_90)
    turned.save(inbox / "turned.png", exif=tag)
    found = rows(inspect(finished[0], inbox, tmp_path / "out", raw="tiff"))
    assert found["turned"]["score"] == found["upright"]["score"]
    for folder in ("heat_maps", "overlays"):
        one, other = (
            np.asarray(Image.open(tmp_path / "out" / folder / f"{name}.png"))
            for name in ("upright", "turned")
        )
        assert one.shape == (90, 90, 3)
        np.testing.assert_array_equal(other, one)
    raw = tifffile.imread(tmp_path / "out" / "raw" / "upright.tiff")
    assert raw.dtype == np.float32 and raw.shape == (90, 90)
    scored = load_detector(finished[0]).score(rgb=np.asarray(large.convert("RGB")))
    np.testing.assert_allclose(
        raw, at_size(scored.map, (90, 90))[..., 0], rtol=1e-5, atol=1e-6
    )
    said = [
        r.message for r in caplog.records if "brought to the size" in r.getMessage()
    ]
    assert len(said) == 1 and "90 x 90" in said[0]


def test_a_row_says_what_the_detector_decides(finished, inbox, tmp_path):
    image = np.asarray(Image.open(inbox / "part.000.png").convert("RGB")).copy()
    image[10:30, 10:30] = 255 - image[10:30, 10:30]
    Image.fromarray(image).save(inbox / "part.001.png")
    found = rows(inspect(finished[0], inbox, tmp_path / "out", alpha=0.5))
    detector = load_detector(finished[0])
    assert detector.calibration is not None
    for name, row in found.items():
        rgb = np.asarray(Image.open(inbox / name).convert("RGB"))
        one = detector.score(rgb=rgb, alpha=0.5)
        assert row["score"] == f"{one.image:.9g}"
        assert row["p_value"] == f"{one.decision.p_value:.6g}"
        assert row["verdict"] == ("good", "defective")[int(one.decision.defective)]
        _, boxes = detector.in_picture(one, rgb.shape[:2])
        assert row["boxes"] == "; ".join(" ".join(map(str, b[:4])) for b in boxes)
        for box, own in zip(boxes, one.decision.boxes, strict=True):
            assert box.peak == own.peak > one.decision.pixel_threshold
    assert found["part.001.png"]["boxes"]
    assert found["part.001.png"]["verdict"] == "defective"


def test_a_folder_is_watched(finished, tmp_path, caplog):
    """Files count when they are whole; those that change are scored again."""
    inbox, (first, second, third) = tmp_path / "inbox", finished[1]
    inbox.mkdir()
    done = Predictions(tmp_path / "scores.csv")
    looks, scored = [], []
    half = second.read_bytes()[:500]

    def act(_):
        """Does what happens between two looks at the folder."""
        looks.append(1)
        actions = {
            1: lambda: shutil.copy(first, inbox / "a.png"),
            2: lambda: (inbox / "b.png").write_bytes(half),
            3: lambda: shutil.copy(second, inbox / "b.png"),
            5: lambda: shutil.copy(third, inbox / "a.png"),
        }
        actions.get(len(looks), lambda: None)()

    source = Inbox(inbox, load_detector(finished[0]))
    for sample in due(source, done, True, lambda: len(looks) > 7, act):
        scored.append((sample.name, len(looks)))
        done.add(Prediction(sample.name, sha256=sample.sha256))
    assert scored == [("a", 2), ("b", 4), ("a", 6)]
    assert [row.name for row in done] == ["a", "b"]
    assert caplog.text.count("; waiting") == 1  # of the folder without images
