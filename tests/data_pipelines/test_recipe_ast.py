"""The recipe `ast`: hand-computed scenes, naive loops, scikit-learn, real data."""

import json

import numpy as np
import pytest
from sklearn.cluster import KMeans

from data_pipelines.errors import DatasetError
from data_pipelines.layout import scan
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.recipes.ast import relief
from data_pipelines.recipes.depth import background_surface, fill_gaps, two_means
from data_pipelines.samples import load_sample

AST = RECIPES["ast"]
SMALL = {**AST.defaults, "image_size": 32}


def plate(height: float = 0.02, side: int = 40) -> Sample:
    """Returns a flat table at 0.6 m with a plate of `height` metres in the middle."""
    z = np.full((side, side), 0.6, np.float32)
    z[10:20, 10:20] -= np.float32(height)
    xyz = np.stack([z * 0, z * 0, z], -1)
    return Sample(np.full((side, side, 3), 9, np.uint8), xyz)


def naive_fill(depth: np.ndarray, passes: int) -> np.ndarray:
    for _ in range(passes):
        old = depth.copy()
        for i in range(depth.shape[0]):
            for j in range(depth.shape[1]):
                window = old[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                if old[i, j] == 0 and (window > 0).any():
                    depth[i, j] = window.sum() / (window > 0).sum()
    return depth


def test_gap_filling_against_a_naive_loop():
    random = np.random.default_rng(0)
    depth = random.uniform(0.5, 0.7, (17, 13))
    depth[random.random(depth.shape) < 0.6] = 0
    depth[:3, :4] = 0
    for passes in (0, 1, 3):
        expected = naive_fill(depth.copy(), passes)
        np.testing.assert_allclose(fill_gaps(depth, passes), expected, rtol=1e-12)


def test_hole_of_seven_pixels_needs_four_passes():
    depth = np.full((15, 15), 0.5)
    depth[4:11, 4:11] = 0
    assert (fill_gaps(depth, 3) == 0).sum() == 1
    assert fill_gaps(depth, 3)[7, 7] == 0
    np.testing.assert_allclose(fill_gaps(depth, 4), 0.5, rtol=1e-12)


def test_zeros_in_the_first_row_and_column_are_filled():
    depth = np.full((5, 5), 2.0)
    depth[0, 0] = depth[0, 3] = depth[2, 0] = 0
    np.testing.assert_array_equal(fill_gaps(depth, 1), np.full((5, 5), 2.0))


def test_background_surface_by_hand():
    depth = np.full((5, 9), 9.0)
    depth[:2, :2], depth[:2, -2:] = 1, 3
    depth[-2:, :2], depth[-2:, -2:] = 5, 11
    surface = background_surface(depth)
    assert surface[0, 0] == 1 and surface[0, -1] == 3
    assert surface[-1, 0] == 5 and surface[-1, -1] == 11
    assert surface[2, 4] == pytest.approx((1 + 3 + 5 + 11) / 4)
    assert surface[0, 2] == pytest.approx(1.5)


def test_corner_windows_grow_until_they_hold_a_point():
    depth = np.zeros((32, 32))
    depth[3, 2] = 0.5  # first seen by the window of 4 x 4
    depth[20, 20] = 0.7  # the only one near the corner at the bottom right
    surface = background_surface(depth)
    assert surface[0, 0] == pytest.approx(0.5)
    assert surface[-1, -1] == pytest.approx(0.7)
    assert np.isfinite(surface).all()


def test_two_means_against_scikit_learn():
    random = np.random.default_rng(0)
    values = np.concatenate(
        [random.normal(0.6, 0.01, 400), random.normal(0.7, 0.02, 99)]
    )
    start = np.percentile(values, [5, 95])[:, None]
    model = KMeans(2, init=start, n_init=1, max_iter=20, tol=0).fit(values[:, None])
    expected = np.sort(model.cluster_centers_[:, 0])
    np.testing.assert_allclose(two_means(values), expected, rtol=1e-9)
    assert two_means(np.full(5, 0.3)) == (0.3, 0.3)
    assert two_means(np.array([0.3])) == (0.3, 0.3)


def test_threshold_follows_the_height_of_the_class():
    # The 95th percentile of a plate that covers 6 % of the image is its height.
    for height, tau in ((0.002, 2e-3), (0.03, 4.5e-3), (0.2, 7e-3)):
        params = AST.fit(SMALL, [plate(height)] * 3)
        assert params["tau"] == pytest.approx(tau, rel=1e-4)
        assert params["height_max"] == pytest.approx(1.1 * height, rel=1e-4)
    assert AST.fit({**SMALL, "tau": 0.005}, [plate()])["tau"] == 0.005
    json.dumps(params)


def test_record_by_hand():
    params = AST.fit({**SMALL, "image_size": 40}, [plate(0.02)])
    record, flags = AST.apply(params, plate(0.02))
    assert flags == ()
    there = np.zeros((40, 40, 1), bool)
    there[10:20, 10:20] = True
    np.testing.assert_array_equal(record["foreground"], there)
    assert record["valid"].all()
    # 0.2 + 0.6 * height / (1.1 * height)
    top = record["height_normalised"][there]
    np.testing.assert_allclose(top, 0.2 + 0.6 / 1.1, rtol=1e-4)
    np.testing.assert_allclose(record["height_normalised"][~there], 0.2, atol=1e-4)
    # Another plate, twice as high, is clipped; the image's own range hides the height.
    high = AST.apply(params, plate(0.04)).record
    np.testing.assert_allclose(high["height_normalised"][there], 0.8, rtol=1e-6)
    own = {**params, "normalisation": "image"}
    for height in (0.02, 0.04):
        values = AST.apply(own, plate(height)).record["height_normalised"]
        np.testing.assert_allclose(values[there], 0.8, rtol=1e-6)


def test_wide_gaps_get_the_mean_of_the_background():
    sample = plate(0.02)
    sample.xyz[24:36, 24:36] = 0
    params = AST.fit({**SMALL, "image_size": 40}, [sample])
    record = AST.apply(params, sample).record
    assert record["depth"][30, 30, 0] == pytest.approx(0.6, rel=1e-6)
    assert not record["valid"][30, 30, 0] and not record["foreground"][30, 30, 0]
    assert record["height_normalised"][30, 30, 0] == pytest.approx(0.2, abs=1e-4)


def test_nothing_measured_is_finite_and_does_not_count():
    nothing = plate()._replace(xyz=np.zeros((40, 40, 3), np.float32))
    params = AST.fit(SMALL, [plate(0.02), nothing])
    assert params == AST.fit(SMALL, [plate(0.02)])
    record, flags = AST.apply(params, nothing)
    assert flags == ("nothing_measured",)
    assert not record["valid"].any() and not record["foreground"].any()
    for values in record.values():
        assert np.isfinite(values.astype(np.float32)).all()
    np.testing.assert_array_equal(record["height_normalised"], np.float32(0.2))
    with pytest.raises(DatasetError, match="positive z"):
        AST.fit(SMALL, [nothing])


def test_no_table_and_no_object_fall_back_and_are_flagged():
    params = AST.fit(SMALL, [plate(0.02)])
    flat = plate(0.0)
    record, flags = AST.apply(params, flat)
    assert flags == ("nothing_found",) and record["foreground"].all()
    step = plate(0.0)
    step.xyz[2:-2, :, 2] -= 0.1
    step.xyz[:, 2:-2, 2] -= 0.1
    loose = {**params, "all_foreground": 0.9}
    record, flags = AST.apply(loose, step)
    assert flags == ("all_foreground",) and record["foreground"].all()


def test_images_alone():
    alone = plate()._replace(xyz=None)
    params = AST.fit(SMALL, [alone])
    assert sorted(AST.apply(params, alone).record) == ["mask", "rgb"]
    with pytest.raises(DatasetError, match="without points"):
        AST.apply(params, plate())


def test_masks_have_their_own_size_and_any_id_is_a_defect():
    mask = np.zeros((40, 40), np.uint8)
    mask[0:20] = 252
    params = AST.fit({**SMALL, "mask_size": 20}, [plate()])
    record = AST.apply(params, plate()._replace(mask=mask)).record
    assert record["mask"].shape == (20, 20, 1)
    assert record["mask"][:10].all() and not record["mask"][10:].any()


def test_unknown_normalisation():
    with pytest.raises(DatasetError, match="normalisation"):
        AST.fit({**SMALL, "normalisation": "both"}, [plate()])


def test_raw_only_resizes():
    raw = RECIPES["raw"]
    params = raw.fit({**raw.defaults, "image_size": 20}, [])
    sample = plate()
    sample.xyz[0, 0] = 0
    record, flags = raw.apply(params, sample)
    np.testing.assert_array_equal(record["xyz"], sample.xyz[::2, ::2])
    np.testing.assert_array_equal(record["depth"], sample.xyz[::2, ::2, 2:])
    assert flags == () and (~record["valid"]).sum() == 1
    nothing = sample._replace(xyz=np.zeros_like(sample.xyz))
    assert raw.apply(params, nothing).flags == ("nothing_measured",)


def test_real_class(real_class):
    found = scan(real_class.parent, real_class.name)
    training = found.split("train")[::20]
    loaded = [load_sample(files).sample for files in training]
    params = AST.fit({**AST.defaults, "image_size": 128}, loaded)
    assert 2e-3 <= params["tau"] <= 7e-3
    assert 0.03 < params["height_max"] < 0.08  # the part is some 40 mm high
    for sample in loaded:
        record, flags = AST.apply(params, sample)
        normalised = record["height_normalised"]
        assert flags == ()
        assert normalised.min() >= np.float32(0.2) and normalised.max() <= 0.8
        assert 0.1 < record["foreground"].mean() < 0.25
        assert (record["depth"] > 0.6).all()
        assert not record["xyz"][~record["valid"][..., 0]].any()
    # Real gaps against the loop, on a corner that has table, shadow and object.
    z = loaded[0].xyz[64:104, 64:104, 2]
    filled = relief(z, 3).filled
    np.testing.assert_allclose(filled, naive_fill(z.astype(np.float64), 3), rtol=1e-6)


def test_defects_of_a_full_size_class_lie_on_the_object(native_class):
    found = scan(native_class.parent, native_class.name)
    assert [f for f in found.faults if not f.warning] == []
    params = AST.fit(
        AST.defaults, (load_sample(f).sample for f in found.split("train"))
    )
    for files in found.split("test"):
        record = AST.apply(params, load_sample(files).sample).record
        assert record["mask"].any() == (files.defect != "good")
        if files.defect == "hole":
            assert (record["mask"] & record["foreground"]).sum() > 30
