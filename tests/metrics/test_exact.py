"""The examples worked by hand, and the promises about undefined values."""

import math

import numpy as np
import pytest
from oracles import aupro as oracle

from ad3d_jax.metrics import compat, curves, exact, ranking

KEYS = {
    *("i_auroc", "p_auroc", "aupro_30", "aupro_10", "aupro_05", "aupro_01"),
    *("i_ap", "p_ap", "i_f1max", "p_f1max", "aupro_30_compat"),
}


def toy():
    """One 4x4 image, two regions and ten normal pixels (example C)."""
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 0, :2] = True
    mask[0, 2:, 2:] = True
    image = np.zeros((1, 4, 4), np.float32)
    image[0, 0, :2] = 16, 10
    image[0, 2, 2:] = 15, 14
    image[0, 3, 2:] = 5, 4
    image[~mask] = 13, 12, 11, 9, 8, 7, 6, 3, 2, 1
    return image, mask


def smooth(seed, count=6, size=32, lift=1.0):
    """Random maps that are smooth and higher on random round defects."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    masks = np.zeros((count, size, size), bool)
    for mask in masks[count // 3 :]:
        for _ in range(rng.integers(1, 3)):
            r, c = rng.integers(3, size - 3, 2)
            mask |= (rows - r) ** 2 + (columns - c) ** 2 < rng.integers(3, 16)
    noise = rng.standard_normal(masks.shape)
    for axis in (1, 2):
        noise = sum(np.roll(noise, k, axis) for k in range(4))
    maps = noise / noise.std() + lift * masks
    return maps.astype(np.float32), masks


def test_image_level_by_hand():
    images = ranking.rank_images(
        np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    )
    assert curves.auroc(images) == 0.75
    assert curves.average_precision(images) == pytest.approx(
        0.5 + 0.5 * 2 / 3, abs=1e-12
    )
    value, threshold = curves.f1_max(images)
    assert value == pytest.approx(0.8, abs=1e-12)
    assert threshold == np.float32(0.35)


def test_ties_by_hand():
    images = ranking.rank_images(np.array([1.0, 1.0, 2.0]), np.array([0, 1, 1]))
    assert curves.auroc(images) == 0.75


@pytest.mark.parametrize(
    ("limit", "value"),
    [(0.05, 0.5), (0.1, 0.5), (0.3, 0.5), (0.7, 0.642857), (1, 0.75)],
)
def test_pro_by_hand(limit, value):
    pixels = ranking.rank_pixels(*toy())
    assert curves.aupro(pixels, limit) == pytest.approx(value, abs=1e-6)
    assert oracle.exact(*toy(), limit) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("thresholds", "limit", "value"),
    [
        *((t, 0.3, 0.541667) for t in (10, 11, 99, 100)),
        *((t, 0.7, 0.678571) for t in (10, 100)),
        *((t, 1.0, 0.775) for t in (10, 100)),
        *((5, 0.05, 0.520833), (5, 0.3, 0.625), (5, 1.0, 0.8125)),
    ],
)
def test_sampled_pro_by_hand(thresholds, limit, value):
    found = compat.sampled_aupro(ranking.rank_pixels(*toy()), limit, thresholds)
    assert found == pytest.approx(value, abs=1e-6)
    assert oracle.sampled(*toy(), limit, thresholds) == pytest.approx(value, abs=1e-6)


def test_pixel_level_by_hand():
    image, mask = toy()
    found = exact.evaluate(image, mask, np.array([16.0]), np.array([1]))
    assert set(found.values) == KEYS
    assert found.values["p_auroc"] == pytest.approx(0.716667, abs=1e-6)
    assert found.values["p_ap"] == pytest.approx(0.741606, abs=1e-6)
    assert found.values["p_f1max"] == pytest.approx(2 / 3, abs=1e-6)
    assert curves.f1_max(ranking.rank_pixels(image, mask))[1] == 14.0
    assert found.values["aupro_30_compat"] == pytest.approx(0.541667, abs=1e-6)


def test_regions_touch_at_corners():
    mask = np.zeros((2, 3, 5), bool)
    mask[:, 0, :3] = True
    mask[:, 1, 3] = True
    image = np.zeros((2, 3, 5), np.float32)
    image[:, 1, 3] = 1.0
    pixels = ranking.rank_pixels(image, mask)
    assert pixels.overlap[0] == pytest.approx(0.25, abs=1e-12)
    assert len(oracle.regions(mask[0])) == 1
    assert len(oracle.regions(mask[0], diagonal=False)) == 2
    assert ranking.label_regions(mask).max() == 2  # none across images


@pytest.mark.parametrize("columns", [[3], [1, 3, 5]])
def test_columns_behave_like_chance(columns):
    image = (np.arange(2800, dtype=np.float32) / 2800).reshape(1, 400, 7)
    mask = np.zeros(image.shape, bool)
    mask[:, :, columns] = True
    pixels = ranking.rank_pixels(image, mask)
    assert curves.aupro(pixels, 1 / 3) == pytest.approx(1 / 6, abs=1e-5)


@pytest.mark.parametrize("limit", [1.0, 0.3, 0.1, 0.05, 0.01])
def test_constant_and_perfect_maps(limit):
    _, mask = toy()
    flat = ranking.rank_pixels(np.full(mask.shape, 7.0, np.float32), mask)
    assert curves.aupro(flat, limit) == pytest.approx(limit / 2, abs=1e-15)
    assert curves.auroc(flat) == 0.5
    perfect = ranking.rank_pixels(mask.astype(np.float32), mask)
    assert curves.aupro(perfect, limit) == 1.0
    assert compat.sampled_aupro(perfect, limit, 100) == pytest.approx(1.0, abs=1e-12)
    if limit < 0.9:
        assert compat.sampled_aupro(flat, limit, 100) == 0.0


def test_exact_is_above_sampled_on_concave_curves():
    maps, masks = smooth(0, count=12, lift=2.0)
    pixels = ranking.rank_pixels(maps, masks)
    for limit in (0.3, 0.1, 0.05, 0.01):
        for thresholds in (99, 100):
            sampled = compat.sampled_aupro(pixels, limit, thresholds)
            assert sampled < curves.aupro(pixels, limit)


def test_whole_area_is_mean_of_region_auroc(parity):
    sklearn = pytest.importorskip("sklearn")
    metrics = pytest.importorskip("sklearn.metrics")
    maps, masks = smooth(1)
    maps = np.round(maps, 1)  # ties
    normal, per_region = oracle.scores_of(maps, masks)
    areas = [
        metrics.roc_auc_score(
            np.r_[np.zeros(normal.size), np.ones(region.size)], np.r_[normal, region]
        )
        for region in per_region
    ]
    found = curves.aupro(ranking.rank_pixels(maps, masks), 1.0)
    assert found == pytest.approx(np.mean(areas), abs=1e-9)
    parity("metrics", sklearn, "AUPRO without a limit", found, np.mean(areas))


def test_one_class_alone_is_undefined_with_a_reason():
    maps, masks = smooth(2)
    scores = maps.max((1, 2))
    none = np.zeros(masks.shape, bool)
    found = exact.evaluate(maps, none, scores, np.zeros(6, int))
    assert all(math.isnan(value) for value in found.values.values())
    assert set(found.notes) == KEYS
    assert "no anomalous image" in found.notes["i_auroc"]
    assert "no defect pixel" in found.notes["aupro_30"]
    found = exact.evaluate(maps, ~none, scores, np.ones(6, int))
    assert "no normal image" in found.notes["i_ap"]
    assert "no normal pixel" in found.notes["p_ap"]
    nothing = exact.evaluate(maps[:0], none[:0], scores[:0], np.zeros(0, int))
    assert all(math.isnan(value) for value in nothing.values.values())


def test_regions_lost_by_a_crop_are_told():
    maps, masks = smooth(3)
    labels = masks.any((1, 2)).astype(int)
    cropped = masks.copy()
    cropped[3] = False
    found = exact.evaluate(maps, cropped, maps.max((1, 2)), labels)
    assert found.notes == {"masks": "1 of 4 anomalous images have no defect pixel"}
    found = exact.evaluate(maps, cropped & False, maps.max((1, 2)), labels)
    assert math.isnan(found.values["aupro_30"])
    assert not math.isnan(found.values["i_auroc"])
    assert found.notes["masks"].startswith("4 of 4")


def test_an_empty_split_is_not_called_a_cloud():
    nothing = np.zeros((0, 1, 1), np.float32)
    found = exact.evaluate(nothing, nothing > 0, nothing[:, 0, 0], nothing[:, 0, 0])
    assert all(np.isnan(value) for value in found.values.values())
    assert {found.notes[name] for name in found.values} == {
        "undefined: there is no image",
        "undefined: there is no pixel",
    }


def test_unorganised_cloud_has_no_aupro():
    maps, masks = smooth(4)
    labels = masks.any((1, 2)).astype(int)
    flat = exact.evaluate(maps, masks, maps.max((1, 2)), labels)
    points = (6, 32 * 32, 1)
    cloud = exact.evaluate(
        maps.reshape(points), masks.reshape(points), maps.max((1, 2)), labels
    )
    assert math.isnan(cloud.values["aupro_01"])
    assert "unorganised" in cloud.notes["aupro_30_compat"]
    assert cloud.values["p_auroc"] == flat.values["p_auroc"]


def test_nan_names_the_sample_and_infinities_are_ranked():
    maps, masks = smooth(5)
    labels = masks.any((1, 2)).astype(int)
    scores = maps.max((1, 2))
    names = [f"test/hole/{n:03}" for n in range(6)]
    before = exact.evaluate(maps, masks, scores, labels, names)
    wide = maps.copy()
    wide[maps == maps.max()] = np.inf
    wide[maps == maps.min()] = -np.inf
    assert exact.evaluate(wide, masks, scores, labels, names) == before
    maps[4, 2, 2] = np.nan
    with pytest.raises(ValueError, match="test/hole/004.*map holds NaN"):
        exact.evaluate(maps, masks, scores, labels, names)
    scores[1] = np.nan
    with pytest.raises(ValueError, match="sample 1.*image score"):
        exact.evaluate(wide, masks, scores, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.zeros((6, 32, 31), bool)}, "shape of the masks"),
        ({"masks": np.zeros((6, 32, 32), np.uint8)}, "bool array"),
        ({"labels": np.array([0, 0, 2, 1, 1, 1])}, r"0 or 1, found \[2\]"),
        ({"labels": np.array([0, 1])}, r"two arrays \[N\]"),
        ({"labels": np.zeros(2), "image_scores": np.zeros(2)}, "each of 6 maps"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    maps, masks = smooth(6)
    arguments = {
        "maps": maps,
        "masks": masks,
        "image_scores": maps.max((1, 2)),
        "labels": masks.any((1, 2)).astype(int),
    }
    with pytest.raises(ValueError, match=message):
        exact.evaluate(**(arguments | change))
