"""Preprocessing: manifests, faults, and caches that are complete or absent."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from ad3d_jax.workdir.disk import DiskFullError
from data_pipelines import shards
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.prepared import open_prepared
from data_pipelines.preprocess import prepare
from data_pipelines.whole_folder import complete_or_absent

SMALL = {"image_size": 16}


@pytest.fixture
def run(box, tmp_path):
    def run(category="box", parameters=SMALL, **options):
        options = {"format": "npz", **options}
        cache = options.pop("cache", tmp_path / "cache")
        recipe = options.pop("recipe", "ast")
        return prepare(box.parent, category, recipe, parameters, cache, **options)

    return run


def entries(cache):
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


@pytest.mark.parametrize("format", ["npz", "tfds"])
def test_manifest(run, box, format):
    prepared = run(format=format)
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    assert open_prepared(prepared.folder).manifest == manifest == prepared.manifest
    assert manifest["counts"] == {
        "test": {"dent": 2, "good": 2},
        "train": {"good": 5},
        "validation": {"good": 2},
    }
    keys = [(s["split"], s["defect"], s["stem"]) for s in manifest["samples"]]
    assert keys == sorted(keys) and len(keys) == 11
    for sample in manifest["samples"]:
        assert sample["label"] == (sample["defect"] == "dent")
        assert 0 <= sample["id"] < 2**31
    assert manifest["image_sizes"] == {"32x32": 11}
    assert manifest["parameters"]["image_size"] == 16
    params = json.loads((prepared.folder / "params.json").read_text())
    assert params == manifest["params"] and params["tau"] > 0
    assert manifest["faults"] == [] and manifest["duplicates"] == []
    for name in sum(manifest["shards"].values(), []):
        assert (prepared.folder / name).is_file()


def test_points_that_nothing_needs_are_neither_read_nor_kept(run, box):
    whole = run()
    (next((box / "train" / "good" / "xyz").iterdir())).write_bytes(b"no points")
    images = run(points=False)
    assert images.manifest["fields"].keys() == {"rgb", "mask"}
    ids = [[s["id"] for s in x.manifest["samples"]] for x in (whole, images)]
    assert ids[0] == ids[1]
    with pytest.raises(CorruptSampleError):
        run(points=False, parameters={**SMALL, "extras": ("normals",)})
    with pytest.raises(CorruptSampleError):
        run(points=False, recipe="plane", parameters=SMALL)


@pytest.mark.parametrize("format", ["npz", "tfds"])
def test_same_input_same_bytes(run, tmp_path, format):
    one = run(format=format).folder
    two = run(format=format, cache=tmp_path / "other").folder
    assert one.name == two.name
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(two) for p in two.rglob("*") if p.is_file())
    for file in files:
        assert (one / file).read_bytes() == (two / file).read_bytes(), file


def test_changed_parameters_or_files_make_a_new_folder(run, box, write):
    first = run()
    before = {p: p.stat().st_mtime_ns for p in first.folder.iterdir()}
    assert run().folder == first.folder
    second = run(parameters={"image_size": 20})
    assert second.folder != first.folder
    assert run(recipe="raw").folder not in (first.folder, second.folder)
    write.sample(box / "train/good", "000", 999)
    assert run().folder not in (first.folder, second.folder)
    assert before == {p: p.stat().st_mtime_ns for p in first.folder.iterdir()}


@pytest.mark.parametrize("format", ["npz", "tfds"])
@pytest.mark.parametrize("split", ["train/good", "test/dent"])
def test_corrupt_file_leaves_nothing_behind(run, box, tmp_path, format, split):
    path = box / split / "xyz/001.tiff"
    whole = path.read_bytes()
    path.write_bytes(whole[:900])
    with pytest.raises(CorruptSampleError) as error:
        run(format=format)
    assert str(path) in str(error.value)
    assert entries(tmp_path / "cache") == []
    path.write_bytes(whole)
    assert len(run(format=format).manifest["samples"]) == 11


def test_full_disk(run, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards.np, "savez", full)
    with pytest.raises(DiskFullError, match="no space"):
        run()
    assert entries(tmp_path / "cache") == []


def test_a_full_disk_while_tfds_writes(run, tmp_path, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    from data_pipelines.builders.mvtec3d import Mvtec3d

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(Mvtec3d, "download_and_prepare", full)
    with pytest.raises(DiskFullError, match="no space"):
        run(format="tfds")
    assert entries(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "format", ["npz", pytest.param("tfds", marks=pytest.mark.slow)]
)
def test_the_command_ends_with_3_where_no_space_is_left(box, write, tmp_path, format):
    """No file may grow beyond 64 KB, as on a disk that is full; then space is made."""
    for k in range(5, 20):
        write.sample(box / "train/good", f"{k:03d}", k)
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (1 << 16,) * 2)\n"
    run = (
        "import runpy; runpy.run_module('data_pipelines.preprocess', None, '__main__')"
    )
    cache = tmp_path / "cache"
    words = command(box, cache, '--parameters={"image_size": 32}', f"--format={format}")
    words = [words[0], "-c", limit + run, *words[3:]]
    full = subprocess.run(words, capture_output=True, text=True)
    assert full.returncode == 3, full.stderr[-2000:]
    assert "no space is left" in full.stderr and "Traceback" not in full.stderr
    assert entries(cache) == []
    words[2] = run
    assert subprocess.run(words, capture_output=True).returncode == 0
    assert len(entries(cache)) == 1


def test_rests_of_an_ended_run_are_removed(run, tmp_path):
    name = run().folder.name
    shutil.rmtree(tmp_path / "cache" / name)
    rest = tmp_path / "cache" / f".{name}.{2**22 + 1}.unfinished"
    rest.mkdir()
    (rest / "train-00000.npz").write_bytes(b"half")
    run()
    assert entries(tmp_path / "cache") == [name]


def test_a_damaged_manifest_is_one_error_with_advice(run):
    """No flipped bit gives another label, id or order without a word."""
    prepared = run()
    path = prepared.folder / "manifest.json"
    whole = path.read_bytes()
    damages = [b"", b"[]", b"{}", b"[" * 100_000, whole[: len(whole) // 2]]
    for place in range(3, len(whole), 37):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        damages.append(bytes(flipped))
    refused = 0
    for damage in damages:
        path.write_bytes(damage)
        try:
            assert open_prepared(prepared.folder).manifest == prepared.manifest
        except DatasetError as error:
            refused += 1
            assert str(path) in str(error) and "run again" in str(error)
    assert refused > 0.5 * len(damages)  # the others are spaces
    path.write_bytes(whole.replace(b'"label": 1', b'"label": 0', 1))
    with pytest.raises(DatasetError, match="manifest is damaged .its digest"):
        run()


def test_work_at_once_with_equal_process_numbers(tmp_path, monkeypatch):
    """In containers every process may be number 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    folder = tmp_path / "class"
    with complete_or_absent(folder) as one:
        (one / "a").write_text("one")
        with complete_or_absent(folder) as two:
            assert one != two and (one / "a").exists()
            (two / "manifest.json").write_text("two")
        assert entries(tmp_path) == sorted(["class", one.name])
        (one / "manifest.json").write_text("one")
    assert entries(tmp_path) == ["class"]
    assert (folder / "manifest.json").read_text() == "two"  # the first that ended


def test_missing_files(run, box):
    (box / "test/dent/xyz/001.tiff").unlink()
    (box / "train/good/rgb/003.png").unlink()
    with pytest.raises(DatasetError, match=r"(?s)2 faults.*003\.png.*on_missing=skip"):
        run()
    manifest = run(on_missing="skip").manifest
    assert manifest["counts"]["train"] == {"good": 4}
    assert manifest["counts"]["test"] == {"dent": 1, "good": 2}
    kinds = sorted(fault["kind"] for fault in manifest["faults"])
    assert kinds == ["missing_rgb", "missing_xyz"]


def test_training_samples_are_required_even_when_skipping(run, box):
    shutil.rmtree(box / "train/good/xyz")
    with pytest.raises(DatasetError, match="no complete training sample"):
        run(on_missing="skip")


def test_class_without_test_split(run, box):
    shutil.rmtree(box / "test")
    manifest = run().manifest
    assert sorted(manifest["counts"]) == ["train", "validation"]
    assert [fault["kind"] for fault in manifest["faults"]] == ["missing_split"]


def test_duplicates_and_differing_sizes_are_recorded(run, box, write):
    shutil.copy(box / "train/good/rgb/000.png", box / "test/good/rgb/001.png")
    write.sample(box / "train/good", "004", 4, size=(40, 24))
    manifest = run().manifest
    assert manifest["duplicates"] == [["test/good/001", "train/good/000"]]
    assert manifest["image_sizes"] == {"32x32": 10, "40x24": 1}


@pytest.mark.parametrize("format", ["npz", "tfds"])
def test_samples_of_a_sensor_without_colour_are_told_apart(run, box, format):
    """Black images beside the points; two samples are wholly the same."""
    from PIL import Image

    from data_pipelines.samples import sample_id

    before = {s["stem"]: s for s in run(format=format).manifest["samples"]}
    for path in box.glob("train/good/rgb/*"):
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    place = box / "train/good/xyz"
    shutil.copy(place / "001.tiff", place / "002.tiff")
    manifest = run(format=format).manifest
    rows = {s["stem"]: s for s in manifest["samples"] if s["split"] == "train"}
    ids = [rows[f"00{k}"]["id"] for k in range(5)]
    assert len(set(ids)) == 4 and ids[1] == ids[2]
    assert [len(group) for group in manifest["duplicates"]] == [5]
    # Where images differ their bytes alone give the id, as before.
    for sample in manifest["samples"]:
        if sample["split"] != "train":
            assert sample["id"] == sample_id(sample["sha256"]["rgb"])
    assert before["000"]["id"] == sample_id(before["000"]["sha256"]["rgb"])


def test_nonfinite_points_and_flags_are_counted(run, box, write):
    import tifffile

    rgb, xyz = write.scene(7)
    xyz[2, 3] = np.nan
    xyz[9, 9, 1] = np.inf
    place = box / "train/good/xyz"
    tifffile.imwrite(place / "001.tiff", xyz, photometric="rgb")
    tifffile.imwrite(place / "002.tiff", np.zeros_like(xyz), photometric="rgb")
    manifest = run().manifest
    assert manifest["flags"] == {"nothing_measured": 1}
    rows = {s["stem"]: s for s in manifest["samples"] if s["split"] == "train"}
    assert rows["001"]["nonfinite"] == 2 and rows["000"]["nonfinite"] == 0
    assert rows["002"]["flags"] == ["nothing_measured"]


def test_what_reading_assumed_is_in_the_manifest_and_on_the_console(run, box, caplog):
    from PIL import Image

    for path in box.glob("*/*/xyz"):
        shutil.rmtree(path)
    path = box / "train/good/rgb/003.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    for defect, value in (("good", 255), ("dent", 0)):
        mask = Image.fromarray(np.full((32, 32), value, np.uint8))
        mask.save(box / f"test/{defect}/gt/000.png")
    expected = {"orientation_applied": 1, "defect_in_good": 1, "empty_mask": 1}
    for _ in range(2):  # it is said, too, when nothing is left to do
        caplog.clear()
        assert run().manifest["flags"] == expected
        for flag in expected:
            assert "1 of 11 samples (9 %)" in caplog.text and flag in caplog.text


def save_mask(path, *boxes, size=(64, 64)):
    from PIL import Image

    mask = np.zeros(size, np.uint8)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = 255
    Image.fromarray(mask).save(path)


@pytest.mark.parametrize("recipe", ["raw", "ast", "dsr", "plane"])
def test_regions_that_vanish_in_resizing_are_counted(run, box, caplog, recipe):
    """At 16 of 64 pixels every fourth row and column is left."""
    save_mask(
        box / "test/dent/gt/000.png", (0, 0, 8, 8), (21, 21, 3, 3), (33, 41, 1, 9)
    )
    save_mask(box / "test/dent/gt/001.png", (22, 22, 1, 1))
    parameters = SMALL | ({"pad_to": 1} if recipe == "plane" else {})
    manifest = run(recipe=recipe, parameters=parameters).manifest
    rows = {s["stem"]: s for s in manifest["samples"] if s["defect"] == "dent"}
    assert (rows["000"]["regions"], rows["000"]["regions_lost"]) == (3, 2)
    assert (rows["001"]["regions"], rows["001"]["regions_lost"]) == (1, 1)
    assert (manifest["regions"], manifest["regions_lost"]) == (4, 3)
    assert manifest["flags"]["mask_vanished"] == 1
    said = "3 of 4 defect regions (75 %): vanish"
    assert said in caplog.text and any(said in r for r in manifest["remarks"])


def test_a_class_that_loses_all_regions_is_refused(run, box, tmp_path):
    for k in range(2):
        save_mask(box / f"test/dent/gt/00{k}.png", (22, 22, 1, 1))
    with pytest.raises(DatasetError, match=r"2 of 2 regions \(100 %\).*mask_size"):
        run()
    assert entries(tmp_path / "cache") == []
    assert run(parameters={"image_size": 16, "mask_size": 64}).manifest["regions"] == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_in_which_nothing_is_measured_is_refused(run, box, split):
    import tifffile

    for path in box.glob(f"{split}/*/xyz/*"):
        tifffile.imwrite(path, np.zeros((32, 32, 3), np.float32), photometric="rgb")
    with pytest.raises(DatasetError, match=f"none in any of . samples of {split}"):
        run(recipe="raw")


def test_masks_that_are_inverted_are_refused(run, box):
    for path in box.glob("test/*/gt/*"):
        save_mask(path, (0, 0, 64, 64))
    with pytest.raises(DatasetError, match="in all 2 of test: are the masks inverted"):
        run()
    shutil.rmtree(box / "test/good/gt")  # good samples need none
    assert run().manifest["flags"] == {"mostly_defect": 2}


def test_flags_are_told_with_their_share(run, caplog):
    """A recipe that falls back in every sample says so."""
    plane = {"image_size": 16, "pad_to": 1, "removal_distance": 0.9}
    assert run(recipe="plane", parameters=plane).manifest["flags"]
    assert "11 of 11 samples (100 %)" in caplog.text


def test_an_image_that_is_turned_does_not_fit_its_points(run, box):
    from PIL import Image

    path = box / "train/good/rgb/003.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    with pytest.raises(CorruptSampleError, match=r"003\.png: has an orientation tag"):
        run()


def test_samples_of_test_that_are_in_train_are_said(box, tmp_path):
    """One whose image alone is there, as of a sensor without colour, is not one."""
    for name in ("rgb/000.png", "xyz/000.tiff", "rgb/001.png"):
        shutil.copy(box / "train/good" / name, box / "test/good" / name)
    size = {"image_size": 16}
    prepared = prepare(box.parent, "box", "raw", size, tmp_path / "c", format="npz")
    expected = "box: 1 of 4 samples of test (25 %): the same files are in train, too"
    assert expected in prepared.manifest["remarks"]


def test_grey_images_are_said_where_others_have_colours(box, tmp_path):
    size, paths = {"image_size": 16}, sorted(box.glob("*/*/rgb/*.png"))

    def remarks():
        cache = tmp_path / "cache"
        prepared = prepare(box.parent, "box", "raw", size, cache, format="npz")
        return [text for text in prepared.manifest["remarks"] if "grey" in text]

    for count in (0, 1, len(paths)):
        for path in paths[:count]:
            Image.open(path).convert("L").save(path)
        share = f"1 of {len(paths)} samples"
        assert [share in text for text in remarks()] == [True] * (count == 1)


def test_masks_of_another_size(run, box):
    from PIL import Image

    path = box / "test/dent/gt/000.png"
    Image.fromarray(np.full((64, 64), 128, np.uint8)).save(path)
    run()
    Image.fromarray(np.full((64, 32), 128, np.uint8)).save(path)
    with pytest.raises(CorruptSampleError, match="aspect ratio"):
        run()


@pytest.mark.parametrize("name", ["größe 2", "a\nb"])
@pytest.mark.parametrize("format", ["npz", "tfds"])
def test_unusual_class_names_and_read_only_data(write, tmp_path, name, format):
    folder = write.whole(tmp_path / "data", name, train=1)
    write.sample(folder / "train/good", "ü \n1", 5)
    for place in [folder, *folder.rglob("*")]:
        place.chmod(0o555 if place.is_dir() else 0o444)
    cache = tmp_path / "cache"
    prepared = prepare(folder.parent, name, "raw", SMALL, cache, format=format)
    assert prepared.manifest["category"] == name
    assert prepared.folder.parent == cache and prepared.folder.name.isascii()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"recipe": "nothing"}, "data.recipe"),
        ({"parameters": {"imagesize": 3}}, "no parameter imagesize"),
        ({"format": "zip"}, "format"),
        ({"on_missing": "maybe"}, "on_missing"),
        ({"category": "../box"}, "data.category"),
    ],
)
def test_wrong_arguments(run, tmp_path, options, message):
    with pytest.raises(DatasetError, match=message):
        run(**options)
    assert entries(tmp_path / "cache") == []


def test_builder_as_tfds_users_call_it(box, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    from data_pipelines.builders.mvtec3d import CATEGORIES, Mvtec3d, Mvtec3dConfig

    assert sorted(Mvtec3d.builder_configs) == sorted(CATEGORIES)
    config = Mvtec3dConfig(name="box", parameters=dict(SMALL))
    builder = Mvtec3d(data_dir=str(tmp_path / "tfds"), config=config)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(box.parent))
    )
    rows = list(tfds.as_numpy(builder.as_dataset(split="test")))
    assert [r["stem"].decode() for r in rows] == ["000", "001"] * 2
    assert [int(r["label"]) for r in rows] == [1, 1, 0, 0]
    assert rows[0]["mask"].any() and rows[0]["xyz"].shape == (16, 16, 3)
    missing = Mvtec3d(data_dir=str(tmp_path / "other"), config="bagel")
    with pytest.raises(AssertionError, match="train,validation"):
        missing.download_and_prepare()


def command(box, cache, *more):
    values = {"root": box.parent, "cache": cache, "category": "box", "format": "npz"}
    flags = [f"--{name}={value}" for name, value in values.items()]
    return [sys.executable, "-m", "data_pipelines.preprocess", *flags, *more]


def test_command_line(box, tmp_path):
    def run(*more):
        words = command(box, tmp_path / "cache", *more)
        return subprocess.run(words, capture_output=True, text=True)

    good = run('--parameters={"image_size": 16}')
    assert good.returncode == 0, good.stderr
    assert len(entries(tmp_path / "cache")) == 1
    bad = run("--parameters={}", "--category=bix")
    assert bad.returncode == 1 and "Traceback" not in bad.stderr
    assert "classes in" in bad.stderr


def test_cache_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        run(cache=tmp_path / "file" / "cache")


@pytest.mark.slow
def test_same_bytes_from_every_process(box, tmp_path):
    """Records and their fields are in one order."""
    found = []
    for name in ("one", "two", "three"):
        words = command(box, tmp_path / name, '--parameters={"image_size": 16}')
        subprocess.run([*words, "--format=tfds"], check=True, capture_output=True)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append([(path.name, path.read_bytes()) for path in files])
    assert found[0] == found[1] == found[2] and len(found[0]) > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "begun"), [("npz", "*.npz"), ("tfds", "**/*incomplete*")]
)
def test_killed_in_the_middle(run, box, write, tmp_path, format, begun):
    """Twice: when there is a folder to write into, and when records are written."""
    for k in range(5, 300):
        write.sample(box / "train/good", f"{k:03d}", k)
    whole = run(cache=tmp_path / "whole", format=format).folder
    cache = tmp_path / "killed"
    words = command(box, cache, '--parameters={"image_size": 16}', f"--format={format}")
    for moment in (".*.unfinished", f".*.unfinished/{begun}"):
        left = set(cache.glob(moment))
        process = subprocess.Popen(words)
        while not set(cache.glob(moment)) - left:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert whole.name not in entries(cache)
    subprocess.run(words, check=True)
    assert entries(cache) == [whole.name]
    files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    again = cache / whole.name
    assert files == sorted(
        p.relative_to(again) for p in again.rglob("*") if p.is_file()
    )
    for file in files:
        assert (whole / file).read_bytes() == (again / file).read_bytes(), file
