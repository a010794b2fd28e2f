"""The generated sample set: twins, geometry, layout, and how hard it is.

Run as a program, `python -m tests.data_pipelines.test_synthetic`, this file prints the
figures of the pixel-mean baseline that docs/sample_set.md quotes.
"""

import hashlib
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from data_pipelines.synthetic import CATEGORIES, MARKER, class_ids, generate, sample
from data_pipelines.synthetic.defects import (
    COLOUR_AND_DEPTH,
    COLOUR_ONLY,
    DEFECTS,
    DEPTH_ONLY,
)

PAIRS = [(category, name) for category in CATEGORIES for name in DEFECTS[category]]
SMALL = {"size": 64, "train": 3, "validation": 1, "test_good": 2, "test_per_defect": 1}


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns rgb [N,H,W,3] in [0,1] and z [N,H,W] in mm, both float64."""
    images = [np.asarray(Image.open(p)) for p in sorted(folder.glob("rgb/*.png"))]
    scans = [tifffile.imread(p)[..., 2] for p in sorted(folder.glob("xyz/*.tiff"))]
    return np.stack(images) / 255.0, 1e3 * np.stack(scans).astype(np.float64)


def pixel_mean_baseline(root: Path, category: str, window: int = 11) -> dict:
    """Returns the I-AUROC of each defect and, as "all", of all defects together.

    Each pixel's distance from the training mean in training standard deviations, colour
    and depth added up, averaged over `window` x `window`; an image scores its largest.
    """
    rgb, z = read(root / category / "train" / "good")
    seen = z > 0
    rgb_mean, rgb_std = rgb.mean(0), np.maximum(rgb.std(0), 0.01)
    count = np.maximum(seen.sum(0), 1)
    z_mean = z.sum(0) / count
    z_std = np.sqrt((seen * (z - z_mean) ** 2).sum(0) / count)
    z_std = np.maximum(z_std, 0.15)

    def scores(defect: str) -> np.ndarray:
        rgb, z = read(root / category / "test" / defect)
        colour = (np.abs(rgb - rgb_mean) / rgb_std).mean(-1)
        depth = np.abs(z - z_mean) / z_std * (z > 0)
        smooth = ndimage.uniform_filter(colour + depth, (0, window, window))
        return smooth.max((1, 2))

    good = scores("good")
    bad = {name: scores(name) for name in DEFECTS[category]}
    bad["all"] = np.concatenate(list(bad.values()))
    return {
        name: roc_auc_score(
            np.repeat([0, 1], [len(good), len(values)]), np.concatenate([good, values])
        )
        for name, values in bad.items()
    }


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("set"), **SMALL)


def test_each_category_has_a_defect_of_every_kind():
    assert len(CATEGORIES) >= 4
    for category in CATEGORIES:
        assert len(DEFECTS[category]) >= 5
        for kind in (COLOUR_ONLY, DEPTH_ONLY, COLOUR_AND_DEPTH):
            assert set(kind) & set(DEFECTS[category])


@pytest.mark.parametrize(("category", "defect"), PAIRS)
def test_a_defect_differs_from_its_twin_where_and_as_it_should(category, defect):
    for seed in (3, 4):
        good = sample(category, "good", seed)
        bad = sample(category, defect, seed)
        assert not good.mask.any()
        recoloured = (good.rgb != bad.rgb).any(-1)
        moved = (good.xyz != bad.xyz).any(-1)
        if defect in COLOUR_ONLY:
            assert not moved.any()
        if defect in DEPTH_ONLY:
            assert not recoloured.any()
            np.testing.assert_array_equal(moved & ~bad.mask, False)
        if defect not in DEPTH_ONLY:
            np.testing.assert_array_equal(recoloured & ~bad.mask, False)
            assert recoloured[bad.mask].mean() > 0.8
        if defect not in COLOUR_ONLY:
            both = bad.mask & (good.xyz[..., 2] > 0) & (bad.xyz[..., 2] > 0)
            step = 1e3 * np.abs(good.xyz[..., 2] - bad.xyz[..., 2])[both]
            kept = (good.xyz[..., 2] > 0) & (bad.xyz[..., 2] > 0) & ~bad.mask
            np.testing.assert_array_equal(good.xyz[kept], bad.xyz[kept])
            gone = bad.mask & (bad.xyz[..., 2] == 0)
            assert gone.mean() > 0.002 or step.max() > 1.2


@pytest.mark.parametrize("defect", DEPTH_ONLY)
def test_a_swelling_has_the_sign_and_size_it_is_named_for(defect):
    sign = {"bump": -1.0, "dent": 1.0}[defect]  # towards the camera is less z
    for seed in range(8):
        good, bad = (sample("bun", name, seed).xyz[..., 2] for name in ("good", defect))
        step = 1e3 * sign * (bad.astype(np.float64) - good)
        assert step.min() > -0.03
        assert 2.2 < step.max() < 4.6


@pytest.mark.parametrize(("category", "defect"), PAIRS)
def test_the_mask_lies_on_the_part_and_is_of_a_sensible_size(category, defect):
    for seed in range(6):
        good = sample(category, "good", seed)
        mask = sample(category, defect, seed).mask
        assert 0.002 < mask.mean() < 0.03
        height = height_over_table(good.xyz)
        on_part = (good.rgb.max(-1) > 40) | (height > 2.5)
        # A part's outermost pixel is often unmeasured and as dark as the table.
        on_part = ndimage.binary_dilation(on_part, np.ones((3, 3)))
        assert on_part[mask].mean() > 0.97


def height_over_table(xyz: np.ndarray) -> np.ndarray:
    """Returns mm over a least-squares plane through the image's outermost frame."""
    frame = np.ones(xyz.shape[:2], bool)
    frame[5:-5, 5:-5] = False
    frame &= xyz[..., 2] > 0
    columns = np.concatenate([xyz[..., :2], np.ones_like(xyz[..., :1])], -1)
    plane, *_ = np.linalg.lstsq(columns[frame], xyz[frame, 2], rcond=None)
    return np.where(xyz[..., 2] > 0, 1e3 * (columns @ plane - xyz[..., 2]), 0.0)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("size", [64, 97, 128, 256])
def test_points_fit_the_camera_file_and_the_scene(category, size, tmp_path):
    generate(tmp_path, [category], size, 1, 1, 1, 0)
    text = (tmp_path / category / "calibration/camera_parameters.json").read_text()
    camera = json.loads(text)
    focal = camera["focus"] / camera["sx"]
    assert (camera["image_width"], camera["image_height"]) == (size, size)
    assert camera["kappa"] == 0.0
    for file in sorted((tmp_path / category).rglob("*.tiff")):
        xyz = tifffile.imread(file)
        assert xyz.shape == (size, size, 3) and xyz.dtype == np.float32
        x, y, z = np.moveaxis(xyz.astype(np.float64), -1, 0)
        u, v = np.meshgrid(np.arange(size), np.arange(size))
        np.testing.assert_allclose(x, (u - camera["cx"]) * z / focal, atol=1e-8)
        np.testing.assert_allclose(y, (v - camera["cy"]) * z / focal, atol=1e-8)
        seen = z != 0
        assert (xyz[~seen] == 0).all()
        assert 0.5 < z[seen].min() and z[seen].max() < 0.7
        assert 0.05 < 1 - seen.mean() < 0.4
        height = height_over_table(xyz)
        assert 5 < np.percentile(height[seen], 99.5) < 40
        # 0.12 mm of noise; the median shuns what stands on the table.
        corner = height[:12, :12][seen[:12, :12]]
        assert 0.05 < 1.4826 * np.median(np.abs(corner)) < 0.3


def test_a_seed_gives_the_same_scene_at_any_size():
    for category in CATEGORIES:
        fine, coarse = (sample(category, "good", 5, size).rgb for size in (192, 96))
        shrunk = fine.reshape(96, 2, 96, 2, 3).mean((1, 3))
        away = np.abs(shrunk - coarse).mean()
        other = np.abs(shrunk - sample(category, "good", 6, 96).rgb).mean()
        assert away < 0.5 * other


def test_normal_parts_differ():
    for category in CATEGORIES:
        first, second = (sample(category, "good", seed, 64) for seed in (0, 1))
        colour = np.abs(first.rgb.astype(int) - second.rgb)
        assert np.percentile(colour, 95) > 15
        seen = (first.xyz[..., 2] > 0) & (second.xyz[..., 2] > 0)
        rise = [height_over_table(scan.xyz)[seen] for scan in (first, second)]
        assert np.percentile(np.abs(rise[0] - rise[1]), 95) > 0.5


def test_a_sample_is_pure():
    np.random.seed(0)
    first = sample("rope", "dent", 7, 64)
    state = np.random.get_state()[1].copy()
    np.random.seed(1)
    second = sample("rope", "dent", 7, 64)
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left, right)
    np.random.seed(0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_sets_of_one_seed_are_the_same_bytes_and_of_another_are_not(tmp_path):
    generate(tmp_path / "a", ["flange"], **SMALL)
    generate(tmp_path / "b", ["flange"], **SMALL)
    generate(tmp_path / "c", ["flange"], **SMALL, seed=1)
    first, second, third = (digest(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == third.keys()
    images = [name for name in first if "rgb" in name or "xyz" in name]
    assert all(first[name] != third[name] for name in images)
    assert len({first[name] for name in images}) == len(images)


def test_layout_is_that_of_mvtec(small_set):
    for category in CATEGORIES:
        folder = small_set / category
        ids = json.loads((folder / "class_ids.json").read_text())
        assert ids == {str(code): name for name, code in class_ids(category).items()}
        assert sorted(map(int, ids))[1:] == list(range(256 - len(ids) + 1, 256))
        names = {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*/")}
        tests = {f"test/{name}" for name in ("good", *DEFECTS[category])}
        assert names == {"train/good", "validation/good"} | tests
        codes = {name: int(code) for code, name in ids.items()}
        for rgb in folder.rglob("rgb/*.png"):
            image = Image.open(rgb)
            assert image.mode == "RGB" and image.size == (64, 64)
            assert (rgb.parents[1] / "xyz" / f"{rgb.stem}.tiff").is_file()
            truth = rgb.parents[1] / "gt" / rgb.name
            assert truth.is_file() == (rgb.parents[2].name == "test")
            if truth.is_file():
                values = np.unique(Image.open(truth))
                assert set(values) == {0, codes[rgb.parents[1].name]}


def test_an_equal_set_is_kept_and_an_unequal_one_replaced(tmp_path):
    folder = generate(tmp_path, ["bun"], **SMALL) / "bun"
    stamp = folder.stat().st_ino
    generate(tmp_path, ["bun"], **SMALL)
    assert folder.stat().st_ino == stamp
    generate(tmp_path, ["bun"], **{**SMALL, "train": 2})
    assert len(list((folder / "train/good/rgb").iterdir())) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bun"]


def test_writers_at_the_same_time_leave_one_whole_set(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(
            lambda _: generate(tmp_path / "a", ["bun"], **SMALL), range(4)
        ):
            pass
    generate(tmp_path / "b", ["bun"], **SMALL)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_foreign_folder_is_not_touched(tmp_path):
    (tmp_path / "bun").mkdir()
    (tmp_path / "bun" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=MARKER):
        generate(tmp_path, ["bun"], **SMALL)
    assert (tmp_path / "bun" / "thesis.txt").read_text() == "mine"


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, ["bun"], **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spoon", "good", 0), "category.*spoon"),
        (("bun", "print", 0), "defect of bun.*print"),
        (("bun", "good", 0, 16), "size.*16"),
        (("bun", "good", -1), "seed.*-1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample(*arguments)


def test_wrong_settings_are_named_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="categories.*spoon"):
        generate(tmp_path, ["bun", "spoon"], **SMALL)
    with pytest.raises(ValueError, match="train.*-1"):
        generate(tmp_path, ["bun"], train=-1)
    assert list(tmp_path.iterdir()) == []


def test_the_mean_image_does_not_solve_the_set(tmp_path):
    generate(tmp_path, ["bun"], size=64, train=60, validation=0)
    figures = pixel_mean_baseline(tmp_path, "bun", window=5)
    assert 0.35 < figures["all"] < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("category", CATEGORIES)
def test_the_mean_image_solves_no_category(tmp_path, category):
    generate(tmp_path, [category])
    assert pixel_mean_baseline(tmp_path, category)["all"] < 0.8


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        chosen = generate(name)
        for each in CATEGORIES:
            row = pixel_mean_baseline(chosen, each)
            text = ", ".join(f"{key} {value:.2f}" for key, value in row.items())
            print(f"{each}: {text}")
