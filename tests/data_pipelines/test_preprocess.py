"""Preprocessing: manifests, faults, and caches that are complete or absent."""

import errno
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipelines import shards
from data_pipelines.errors import CorruptSampleError, DatasetError, DiskFullError
from data_pipelines.prepared import open_prepared
from data_pipelines.preprocess import prepare

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


def test_rests_of_an_ended_run_are_removed(run, tmp_path):
    name = run().folder.name
    shutil.rmtree(tmp_path / "cache" / name)
    rest = tmp_path / "cache" / f".{name}.{2**22 + 1}.unfinished"
    rest.mkdir()
    (rest / "train-00000.npz").write_bytes(b"half")
    run()
    assert entries(tmp_path / "cache") == [name]


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
def test_killed_in_the_middle(run, box, write, tmp_path):
    for k in range(5, 300):
        write.sample(box / "train/good", f"{k:03d}", k)
    whole = run(cache=tmp_path / "whole").folder
    cache = tmp_path / "killed"
    process = subprocess.Popen(command(box, cache, '--parameters={"image_size": 16}'))
    while not list(cache.glob(".*.unfinished/*.npz")):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert entries(cache) != [whole.name]
    again = run(cache=cache).folder
    assert entries(cache) == [whole.name]
    for file in whole.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes()
