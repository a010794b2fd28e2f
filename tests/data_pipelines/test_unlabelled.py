"""Folders for prediction: points, depth images or images alone."""

import json
import os
import shutil
from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image

from data_pipelines.batches import check_batch
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.preprocess import prepare
from data_pipelines.resident import load_resident
from data_pipelines.unlabelled import collate, read_folder

NEEDS = ("rgb", "extras.height_normalised")


@pytest.fixture
def prepared(box, tmp_path):
    size = {"image_size": 16}
    return prepare(box.parent, "box", "ast", size, tmp_path / "cache", format="npz")


def test_the_same_record_as_in_training(prepared, box):
    params = prepared.manifest["params"]
    named = list(read_folder(box / "test/dent", "ast", params, NEEDS))
    assert [name for name, _ in named] == ["000", "001"]
    batch = collate([record for _, record in named], 3)
    check_batch(batch)
    expected = next(load_resident(prepared).ordered("test", 2, 0))
    for field in ("rgb", "xyz", "depth", "valid", "foreground", "id"):
        np.testing.assert_array_equal(
            getattr(batch, field)[:2], getattr(expected, field)
        )
    np.testing.assert_array_equal(
        batch.extras["height_normalised"][:2], expected.extras["height_normalised"]
    )
    assert batch.weight.tolist() == [1, 1, 0]
    assert batch.mask is None and batch.label is None


def test_flat_folder_and_images_alone(prepared, box, tmp_path):
    params = prepared.manifest["params"]
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(box / "test/dent/rgb/000.png", flat)
    (_, record), *rest = read_folder(flat, "ast", params, ("rgb",))
    assert rest == [] and sorted(record) == ["id", "rgb"]
    batch = collate([record], 2)
    assert batch.xyz is None and batch.extras == {}
    with pytest.raises(DatasetError, match="needs points"):
        read_folder(flat, "ast", params, NEEDS)
    shutil.copy(box / "test/dent/xyz/000.tiff", flat)
    ((name, record),) = read_folder(flat, "ast", params, NEEDS)
    assert name == "000" and "height_normalised" in record


def test_depth_images(prepared, tmp_path, write):
    rgb, xyz = write.scene(1)
    for name in ("rgb", "depth"):
        (tmp_path / "in" / name).mkdir(parents=True)
    Image.fromarray(rgb).save(tmp_path / "in/rgb/a.png")
    units = np.rint(xyz[..., 2] * 10_000).astype(np.uint16)
    Image.fromarray(units).save(tmp_path / "in/depth/a.png")
    camera = {"fx": 600, "fy": 600, "cx": 16, "cy": 16, "scale": 0.0001}
    params = prepared.manifest["params"]
    with pytest.raises(DatasetError, match=r"camera\.json"):
        read_folder(tmp_path / "in", "ast", params, NEEDS)
    (tmp_path / "in/camera.json").write_text(json.dumps(camera))
    ((_, record),) = read_folder(tmp_path / "in", "ast", params, NEEDS)
    np.testing.assert_allclose(record["xyz"][..., 2], xyz[::2, ::2, 2], atol=6e-5)


def test_bad_folders(prepared, box, tmp_path):
    params = prepared.manifest["params"]
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DatasetError, match="input"):
            read_folder(folder, "ast", params, ("rgb",))
    with pytest.raises(DatasetError, match="recipe"):
        read_folder(box / "test/dent", "astt", params, ("rgb",))
    (box / "test/dent/rgb/001.png").write_bytes(b"no image")
    records = read_folder(box / "test/dent", "ast", params, ("rgb",))
    assert next(records)[0] == "000"
    with pytest.raises(CorruptSampleError, match="001"):
        next(records)
    with pytest.raises(DatasetError, match="1 to 2 records"):
        collate([], 2)


def test_samples_that_share_an_image_are_told_apart_by_their_points(prepared, box):
    params, place = prepared.manifest["params"], box / "test/dent"
    before = [r["id"] for _, r in read_folder(place, "ast", params, NEEDS)]
    shutil.copy(place / "rgb/000.png", place / "rgb/001.png")
    after = [r["id"] for _, r in read_folder(place, "ast", params, NEEDS)]
    assert len({*before, *after}) == 4
    # Only what was measured counts, and equal samples are one.
    shutil.copy(place / "xyz/000.tiff", place / "xyz/001.tiff")
    one, other = (r["id"] for _, r in read_folder(place, "ast", params, NEEDS))
    assert one == other


def test_a_sample_at_another_distance_than_was_fitted_is_said(prepared, box, caplog):
    manifest, place = prepared.manifest, box / "test/dent"
    seen = [row["distance"] for row in manifest["samples"] if row["split"] == "train"]
    np.testing.assert_allclose(seen, 0.6, atol=0.01)
    named = partial(
        read_folder,
        *(place, "ast", manifest["params"], NEEDS),
        distances=(min(seen), max(seen)),
    )
    list(named())
    assert not [text for text in caplog.messages if "is the unit right" in text]
    path = place / "xyz/000.tiff"
    tifffile.imwrite(path, 10 * tifffile.imread(path), photometric="rgb")  # 0.1 mm
    list(named())
    (said,) = [text for text in caplog.messages if "is the unit right" in text]
    assert said.startswith("000: ")


def test_what_is_odd_about_a_sample_is_said_once(prepared, box, caplog, write):
    params, place = prepared.manifest["params"], box / "test/dent"
    for stem in ("000", "001"):
        tifffile.imwrite(place / f"xyz/{stem}.tiff", 0 * write.scene(0)[1])
        Image.open(place / f"rgb/{stem}.png").convert("L").save(
            place / f"rgb/{stem}.png"
        )
    left_out = []
    list(read_folder(place, "ast", params, NEEDS, left_out=left_out))
    assert caplog.text.count("no point is measured (told once)") == 1
    assert caplog.text.count("grey image") == 1 and not left_out


def test_what_only_looks_like_a_file_costs_no_other(prepared, box):
    place, left_out = box / "test/dent", []
    (place / "rgb/002.png").mkdir()
    os.mkfifo(place / "rgb/003.png")
    found = read_folder(
        place, "ast", prepared.manifest["params"], ("rgb",), left_out=left_out
    )
    assert [name for name, _ in found] == ["000", "001"]
    assert [error.path.name for error in left_out] == ["002.png", "003.png"]


def test_a_camera_that_is_not_needed_is_named(prepared, box, caplog):
    (box / "test/dent/camera.json").write_text("{}")
    read_folder(box / "test/dent", "ast", prepared.manifest["params"], NEEDS)
    assert "not read: camera.json, gt" in caplog.text


def test_what_is_not_read_is_named_and_two_of_one_stem_are_refused(
    prepared, box, caplog
):
    params, place = prepared.manifest["params"], box / "test/dent"
    (place / "notes.txt").write_text("x")
    (place / "rgb/Thumbs.db").write_text("x")
    read_folder(place, "ast", params, NEEDS)
    assert "not read: gt, notes.txt" in caplog.text
    shutil.copy(place / "rgb/001.png", place / "rgb/001.jpg")
    with pytest.raises(DatasetError, match=r"found 001\.jpg and 001\.png"):
        read_folder(place, "ast", params, NEEDS)
    left_out = []
    others = list(read_folder(place, "ast", params, NEEDS, left_out=left_out))
    assert [name for name, _ in others] == ["000"]
    (error,) = left_out
    assert "found 001.jpg and 001.png" in str(error)
