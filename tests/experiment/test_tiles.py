"""Large pictures by tiles: no seam, and the system's own rule for the whole."""

import numpy as np
import pytest
from PIL import Image

import ad3d_jax as ad
from ad3d_jax.devices import kept
from ad3d_jax.experiment.inspect import inspect
from ad3d_jax.experiment.prediction.tiles import Part, Tiles, parts
from data_pipelines.unlabelled import collate, to_record

SMALL = {
    "data.image_size": 32,
    "data.recipe": "raw",
    "data.sample_set.train": 3,
    "data.sample_set.validation": 1,
    "data.sample_set.test_good": 1,
    "data.sample_set.test_per_defect": 0,
    "fit.engine": "jit",
    "model.reweight": "none",
    "model.layers": ("conv1", "layer1"),  # whose patches see 29 pixels far
}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    fields = {**SMALL, "data.cache": str(folder / "cache")}
    run = ad.Experiment("patchcore:tiny+rgb", workdir=folder / "run", set=fields)
    return run.fit()


@pytest.fixture(scope="module")
def picture(detector):
    """Returns noise of several times the size of the pictures of the fit."""
    ((height, width),) = detector.origin.sizes
    size = 5 * height // 2, 4 * width
    return np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)


def test_an_axis_is_covered_once_and_far_from_the_ends_of_tiles():
    assert parts(64, 96, 16) == [Part(0, 64, 0, 64)]
    assert parts(96, 96, 16) == [Part(0, 96, 0, 96)]
    assert parts(160, 96, 16) == [Part(0, 96, 0, 80), Part(64, 160, 80, 160)]
    for length in range(104, 400, 8):
        taken = np.zeros(length, int)
        for begin, end, first, last in parts(length, 96, 16):
            assert end - begin == 96 and 0 <= begin and end <= length
            assert first == 0 or first - begin >= 16
            assert last == length or end - last >= 16
            taken[first:last] += 1
        assert (taken > 0).all()


def test_tiles_give_the_scores_of_the_whole(detector, picture, monkeypatch):
    tiles = Tiles(detector, 72)
    recipe = tiles.recipe(picture.shape[:2])
    assert recipe["params"]["image_size"] == [80, 128]  # at the scale of the fit
    record, _ = to_record(**recipe, id=1, rgb=picture)
    batch = collate([record], 1)
    found, expected = tiles.score(batch), detector.score_batch(batch)
    assert found.map.shape == (1, 80, 128, 1)
    np.testing.assert_allclose(found.map, expected.map, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.image, expected.image, rtol=1e-4)
    monkeypatch.setattr(kept, "_place", lambda *_: None)  # what is traced is not kept
    wider = Tiles(detector, 76, overlap=72).score(batch)
    np.testing.assert_allclose(wider.map, expected.map, rtol=1e-3, atol=1e-5)


def test_a_seam_would_be_seen(detector, picture, monkeypatch):
    """The same tiles with half the margin differ from the whole."""
    tiles = Tiles(detector, 72)
    record, _ = to_record(**tiles.recipe(picture.shape[:2]), id=1, rgb=picture)
    batch = collate([record], 1)
    expected = detector.score_batch(batch)
    tiles._margin = 4
    apart = np.abs(tiles.score(batch).map - expected.map).max()
    assert apart > 0.01 * expected.map.max()


def test_a_folder_with_large_pictures_is_inspected(detector, picture, tmp_path, caplog):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    ((height, width),) = detector.origin.sizes
    Image.fromarray(picture).save(inbox / "large.png")
    Image.fromarray(picture[:height, :width]).save(inbox / "small.png")
    workdir = detector.save(tmp_path / "run")
    path = inspect(workdir, inbox, tmp_path / "out", raw="npy", tile=72)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    large, small = (dict(zip(lines[0], line, strict=True)) for line in lines[1:])
    assert large["score"] and not large["p_value"] and small["p_value"]
    raw = np.load(tmp_path / "out" / "raw" / "large.npy")
    assert raw.shape == picture.shape[:2] and np.isfinite(raw).all()
    assert "scored by tiles, without a p-value" in caplog.text


def test_what_leaves_seams_or_cannot_be_cut_is_refused(detector, tmp_path):
    with pytest.raises(ValueError, match="overlap: expected 64 pixels or more.*40"):
        Tiles(detector, 72, overlap=40)
    for side in (74, 64):
        with pytest.raises(ValueError, match=f"tile: expected a multiple of 4.*{side}"):
            Tiles(detector, side)
    with pytest.raises(ValueError, match="overlap: expected a side of tiles"):
        inspect("run", tmp_path, tmp_path / "out", overlap=8)
    whole = detector.system._replace(local=None)
    other = ad.Detector(detector.origin, whole, detector.state)
    with pytest.raises(ValueError, match="patchcore .* cannot score by tiles"):
        Tiles(other, 72)
