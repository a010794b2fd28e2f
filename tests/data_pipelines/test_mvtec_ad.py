"""The layout of MVTec AD, from the folder to both readers, and each of its faults."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_pipelines import layout
from data_pipelines.arrangements import MVTEC_AD
from data_pipelines.batches import check_batch
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.layout import scan
from data_pipelines.preprocess import prepare
from data_pipelines.resident import load_resident
from data_pipelines.unlabelled import collate, read_folder
from data_pipelines.validate import validate

CHOSEN = {"image_size": 24, "resize_size": 28, "interpolation": "bilinear"}


def picture(seed: int, mode: str = "RGB", size=(40, 36)) -> Image.Image:
    random = np.random.default_rng(seed)
    shape = size if mode == "L" else (*size, 3)
    return Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture
def screw(tmp_path):
    """Returns a class of grey pictures: 4 train, 2 good, 2 scratched, 1 bent."""
    folder = tmp_path / "data" / "screw"
    counts = {"train/good": 4, "test/good": 2, "test/scratch": 2, "test/bent": 1}
    for seed, (place, count) in enumerate(counts.items()):
        (folder / place).mkdir(parents=True)
        for k in range(count):
            image = picture(10 * seed + k, "L")
            image.save(folder / place / f"{k:03d}.png")
            if place in ("train/good", "test/good"):
                continue
            masks = folder / "ground_truth" / place.removeprefix("test/")
            masks.mkdir(parents=True, exist_ok=True)
            mask = np.zeros((40, 36), np.uint8)
            mask[10:20, 18:] = 255
            Image.fromarray(mask).save(masks / f"{k:03d}_mask.png")
    (folder / "readme.txt").write_text("x")
    return folder


def found(folder):
    return scan(folder.parent, folder.name, MVTEC_AD)


def faults(folder) -> list[str]:
    return sorted(fault.kind for fault in found(folder).faults if not fault.warning)


def test_complete_class(screw):
    whole = found(screw)
    assert whole.faults == () and whole.incomplete == ()
    assert [sample.key for sample in whole.samples] == [
        *("test/bent/000", "test/good/000", "test/good/001"),
        *("test/scratch/000", "test/scratch/001"),
        *(f"train/good/{k:03d}" for k in range(4)),
    ]
    for sample in whole.samples:
        assert sample.xyz is None and sample.rgb.is_file()
        bad = sample.defect != "good"
        assert (sample.gt is not None) == bad
        if bad:
            mask = screw / "ground_truth" / sample.defect / f"{sample.stem}_mask.png"
            assert sample.gt == mask
    assert layout.categories(screw.parent) == ["screw"]
    assert validate(screw.parent, "screw", MVTEC_AD) == []


def stray(screw):
    (screw / "ground_truth/scratch/000.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda c: (c / "ground_truth/bent/000_mask.png").unlink(), ["missing_gt"]),
        (lambda c: shutil.rmtree(c / "ground_truth"), []),
        (lambda c: (c / "test/scratch/001.png").unlink(), ["missing_rgb"]),
        (lambda c: shutil.rmtree(c / "test/bent"), ["extra_file"]),
        (stray, ["extra_file"]),
        (lambda c: (c / "train/good/notes.txt").write_text("x"), ["extra_file"]),
        (lambda c: (c / "train/bent").mkdir(), ["extra_file"]),
        (lambda c: picture(1).save(c / "train/good/000.jpg"), ["extra_file"]),
        (lambda c: (c / "test/.DS_Store").write_text("x"), []),
        (lambda c: shutil.rmtree(c / "train"), ["empty_class", "missing_split"]),
    ],
    ids=[
        *("no mask", "no masks", "orphan mask", "orphan masks", "mask's name"),
        *("text", "defect in train", "stem twice", "hidden", "no train"),
    ],
)
def test_faults(screw, damage, expected):
    damage(screw)
    assert faults(screw) == expected


def test_faults_name_the_file(screw, tmp_path):
    arguments = screw.parent, "screw", "raw", CHOSEN, tmp_path
    mask = screw / "ground_truth/scratch/001_mask.png"
    mask.unlink()
    (fault,) = found(screw).faults
    assert fault.path == str(mask) and "test/scratch/001.png" in fault.message
    with pytest.raises(DatasetError, match="001_mask.png is missing"):
        prepare(*arguments, format="npz", name=MVTEC_AD)
    (screw / "test/bent/000.png").unlink()
    messages = [fault.message for fault in found(screw).faults]
    assert any(str(screw / "test/bent/000.png") in message for message in messages)
    data = prepare(*arguments, "skip", "npz", MVTEC_AD)
    assert data.manifest["counts"]["test"] == {"good": 2, "scratch": 1}


def test_no_test_split_is_a_warning(screw):
    shutil.rmtree(screw / "test")
    shutil.rmtree(screw / "ground_truth")
    assert faults(screw) == []
    assert [fault.kind for fault in found(screw).faults] == ["missing_split"]


def test_a_mask_of_another_shape_and_an_empty_one(screw, tmp_path):
    place = screw / "ground_truth/scratch"
    Image.fromarray(np.zeros((40, 36), np.uint8)).save(place / "000_mask.png")
    warnings = validate(screw.parent, "screw", MVTEC_AD)
    assert [(f.kind, f.warning) for f in warnings] == [("mask_label", True)]
    Image.fromarray(np.ones((40, 40), np.uint8)).save(place / "001_mask.png")
    assert "corrupt" in [f.kind for f in validate(screw.parent, "screw", MVTEC_AD)]
    with pytest.raises(CorruptSampleError, match="001_mask.png"):
        prepare(screw.parent, "screw", "raw", CHOSEN, tmp_path, name=MVTEC_AD)


def test_the_other_layout_is_recognised(screw, box):
    for folder, name, other in ((screw, "mvtec_3d", MVTEC_AD), (box, MVTEC_AD, "_3d")):
        (fault,) = (
            f
            for f in scan(folder.parent, folder.name, name).faults
            if "no comp" in f[2]
        )
        assert other in fault.message and "data.name" in fault.message
    with pytest.raises(DatasetError, match=r"data\.name.*mvtec_3d or mvtec_ad.*'ad'"):
        scan(screw.parent, "screw", "ad")


@pytest.mark.parametrize("recipe", ["raw", "ast"])
def test_both_readers_agree_and_hold_pictures_and_masks_alone(screw, tmp_path, recipe):
    stream = pytest.importorskip("data_pipelines.stream")
    chosen = CHOSEN if recipe == "raw" else {"image_size": 24}
    batches = []
    for format, read in (("tfds", stream.open_stream), ("npz", load_resident)):
        data = prepare(
            *(screw.parent, "screw", recipe, chosen, tmp_path),
            format=format,
            name=MVTEC_AD,
        )
        assert data.manifest["name"] == MVTEC_AD
        assert sorted(data.manifest["fields"]) == ["mask", "rgb"]
        reader = read(data)
        sizes = [reader.size(s) for s in ("train", "validation", "test")]
        assert sizes == [4, 0, 5]
        assert list(reader.ordered("validation", 2, 0)) == []
        batches.append(next(reader.ordered("test", 5, 0)))
        assert next(reader.endless("train", 4, 0, 0)).weight.tolist() == [1] * 4
    for batch in batches:
        check_batch(batch)
        assert batch.xyz is batch.depth is batch.valid is batch.foreground is None
        assert batch.extras == {}
        assert batch.label.tolist() == [1, 0, 0, 1, 1]
        assert batch.mask.any((1, 2, 3)).tolist() == [True, False, False, True, True]
        np.testing.assert_array_equal(batch.rgb[..., 0], batch.rgb[..., 2])
    np.testing.assert_array_equal(batches[0].rgb, batches[1].rgb)
    np.testing.assert_array_equal(batches[0].mask, batches[1].mask)


def test_pictures_are_resized_and_cropped_as_asked(screw, tmp_path):
    arguments = screw.parent, "screw", "raw", CHOSEN, tmp_path
    data = prepare(*arguments, format="npz", name=MVTEC_AD)
    batch = next(load_resident(data).ordered("test", 1, 0))
    # 40 x 36: the shorter side to 28, the longer to 31; 24 x 24 from row 4, column 2.
    image = Image.open(screw / "test/bent/000.png").convert("RGB")
    small = np.asarray(image.resize((28, 31), Image.BILINEAR))[4:28, 2:26]
    np.testing.assert_array_equal(np.rint(batch.rgb[0] * 255), small)
    rows, columns = np.arange(31) * 40 // 31, np.arange(28) * 36 // 28
    mask = np.zeros((40, 36), bool)
    mask[10:20, 18:] = True
    expected = mask[rows][:, columns][4:28, 2:26]
    np.testing.assert_array_equal(batch.mask[0, ..., 0], expected)
    # The same from a folder of unlabelled pictures, sorted and without a mask.
    params = data.manifest["params"]
    named = list(read_folder(screw / "test/scratch", "raw", params, ("rgb",)))
    assert [name for name, _ in named] == ["000", "001"]
    (_, record), *_ = read_folder(screw / "test/bent", "raw", params, ("rgb",))
    predicted = collate([record], 1)
    np.testing.assert_array_equal(predicted.rgb, batch.rgb)
    assert predicted.mask is None and predicted.id == batch.id


def test_parameters_of_an_older_run_are_completed(screw):
    folder = screw / "test/bent"
    old = {"image_size": 20, "mask_size": None}
    (_, record), *_ = read_folder(folder, "raw", old, ("rgb",))
    new = {**old, "interpolation": "area", "resize_size": None, "extras": []}
    (_, expected), *_ = read_folder(folder, "raw", new, ("rgb",))
    np.testing.assert_array_equal(record["rgb"], expected["rgb"])


def test_builder_as_tfds_users_call_it(screw, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    from data_pipelines.builders.mvtec_ad import CATEGORIES, MvtecAd

    assert len(CATEGORIES) == 15 and sorted(MvtecAd.builder_configs) == [*CATEGORIES]
    builder = MvtecAd(data_dir=str(tmp_path / "tfds"), config="screw")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(screw.parent))
    )
    assert builder.info.description == MvtecAd.__doc__
    assert sorted(builder.info.splits) == ["test", "train"]
    rows = list(tfds.as_numpy(builder.as_dataset(split="test")))
    assert [int(row["label"]) for row in rows] == [1, 0, 0, 1, 1]
    assert "xyz" not in rows[0]


def test_command_lines(screw, tmp_path):
    def run(module, *arguments):
        words = [sys.executable, "-m", f"data_pipelines.{module}", *arguments]
        return subprocess.run(words, capture_output=True, text=True)

    checked = run("validate", str(screw.parent), "--name=mvtec_ad")
    assert checked.returncode == 0, checked.stderr
    cells = [line.split()[:3] for line in checked.stdout.splitlines()]
    assert [row for row in cells if row[0] == "test"] == [
        *(["test", "bent", "1"], ["test", "good", "2"], ["test", "scratch", "2"]),
    ]
    assert run("validate", str(screw.parent)).returncode == 1
    done = run(
        "preprocess",
        *(f"--root={screw.parent}", "--name=mvtec_ad", "--recipe=raw"),
        *('--parameters={"image_size": 16}', f"--cache={tmp_path / 'cache'}"),
        "--format=npz",
    )
    assert done.returncode == 0, done.stderr
    assert [path.name[:6] for path in (tmp_path / "cache").iterdir()] == ["screw-"]
