"""Random and tied scores against scikit-learn and against the literal definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from oracles import aupro as oracle

from ad3d_jax.metrics import compat, curves, ranking

sklearn = pytest.importorskip("sklearn")
sklearn_metrics = pytest.importorskip("sklearn.metrics")

FEW = settings(max_examples=60, deadline=None)
LEVELS = st.sampled_from([0.0, -0.0, 1.0, -1.5, 0.25, 3e38, -3e38, 1e-38, np.inf])


@st.composite
def splits(draw):
    """Maps full of ties, with at least one normal and one defect pixel."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(2, 6)), draw(st.integers(2, 6)))
    maps = draw(arrays.arrays(np.float32, shape, elements=LEVELS))
    masks = draw(arrays.arrays(bool, shape))
    masks[0, 0, 0], masks[-1, -1, -1] = True, False
    return maps, masks


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_agrees_with_scikit_learn(seed, decimals, parity):
    rng = np.random.default_rng(seed)
    labels = rng.random(500) < 0.2
    scores = (rng.standard_normal(500) + labels).astype(np.float32)
    if decimals is not None:
        scores = np.round(scores, decimals)
    images = ranking.rank_images(scores, labels.astype(int))
    auroc = sklearn_metrics.roc_auc_score(labels, scores)
    assert curves.auroc(images) == pytest.approx(auroc, abs=1e-12)
    parity("metrics", sklearn, "AUROC", curves.auroc(images), auroc)
    precision = sklearn_metrics.average_precision_score(labels, scores)
    found = curves.average_precision(images)
    assert found == pytest.approx(precision, abs=1e-12)
    parity("metrics", sklearn, "average precision", found, precision)
    value, threshold = curves.f1_max(images)
    best = sklearn_metrics.f1_score(labels, scores >= threshold)
    assert value == pytest.approx(best, abs=1e-12)
    every = [sklearn_metrics.f1_score(labels, scores >= t) for t in np.unique(scores)]
    assert value == pytest.approx(max(every), abs=1e-12)
    parity("metrics", sklearn, "largest F1", value, max(every))


@FEW
@given(splits(), st.sampled_from([1.0, 0.7, 0.3, 0.1, 0.05, 0.01]))
def test_agrees_with_the_literal_definition(split, limit):
    pixels = ranking.rank_pixels(*split)
    found = curves.aupro(pixels, limit)
    assert found == pytest.approx(oracle.exact(*split, limit), abs=1e-9)
    assert 0.0 <= found <= 1.0


@FEW
@given(splits(), st.integers(2, 30), st.sampled_from([1.0, 0.3, 0.05]))
def test_agrees_with_the_literal_sampling(split, thresholds, limit):
    found = compat.sampled_aupro(ranking.rank_pixels(*split), limit, thresholds)
    wanted = oracle.sampled(*split, limit, thresholds)
    assert found == pytest.approx(wanted, abs=1e-9)


@FEW
@given(splits())
def test_area_never_falls_with_the_limit(split):
    pixels = ranking.rank_pixels(*split)
    areas = [curves.aupro(pixels, limit) for limit in (0.01, 0.05, 0.1, 0.3, 0.7, 1.0)]
    assert (np.diff(areas) >= -1e-12).all()


@FEW
@given(splits(), st.floats(-10, 10, width=32))
def test_constant_scores_give_the_diagonal(split, value):
    maps, masks = split
    pixels = ranking.rank_pixels(np.full_like(maps, value), masks)
    assert curves.auroc(pixels) == 0.5
    assert curves.average_precision(pixels) == pytest.approx(masks.mean(), abs=1e-15)
    for limit in (0.3, 0.05):
        assert curves.aupro(pixels, limit) == pytest.approx(limit / 2, abs=1e-15)


@FEW
@given(splits(), st.randoms(use_true_random=False))
def test_order_of_samples_is_of_no_account(split, random):
    maps, masks = split
    order = list(range(len(maps)))
    random.shuffle(order)
    before, after = (
        ranking.rank_pixels(maps, masks),
        ranking.rank_pixels(maps[order], masks[order]),
    )
    np.testing.assert_array_equal(before.normal, after.normal)
    np.testing.assert_array_equal(before.defect, after.defect)
    np.testing.assert_array_equal(before.threshold, after.threshold)
    np.testing.assert_allclose(before.overlap, after.overlap, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "transform", [lambda s: 4 * s - 16, lambda s: s**3, np.arctan, np.exp]
)
def test_increasing_transforms_change_nothing(seed, transform):
    rng = np.random.default_rng(seed)
    maps = rng.integers(-40, 40, (3, 12, 12)).astype(np.float32) / 16
    masks = rng.random(maps.shape) < 0.1
    before = ranking.rank_pixels(maps, masks)
    after = ranking.rank_pixels(transform(maps).astype(np.float32), masks)
    for name in ("normal", "defect", "overlap"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_per_image_scaling_does_change_the_result():
    rng = np.random.default_rng(0)
    maps = rng.random((2, 12, 12)).astype(np.float32)
    masks = rng.random(maps.shape) < 0.1
    scaled = maps * np.float32([[[1]], [[5]]])
    before, after = ranking.rank_pixels(maps, masks), ranking.rank_pixels(scaled, masks)
    assert abs(curves.auroc(before) - curves.auroc(after)) > 1e-3


def test_counts_stay_exact_beyond_float32():
    count = 2**24 + 4099
    levels = np.random.default_rng(0).integers(0, 200, count, dtype=np.uint8)
    regions = np.zeros(count, np.int32)
    regions[:90] = 1
    regions[90:30_000] = 2
    pixels = ranking.rank(levels.astype(np.float32), regions)
    histogram = [
        np.bincount(levels[regions == k], minlength=200)[::-1] for k in range(3)
    ]
    normal, first, second = (np.cumsum(h) for h in histogram)
    np.testing.assert_array_equal(pixels.normal, normal)
    np.testing.assert_array_equal(pixels.defect, first + second)
    overlap = (first / 90 + second / 29_910) / 2
    np.testing.assert_allclose(pixels.overlap, overlap, rtol=0, atol=1e-12)
    rate, overlap = np.append(0, normal / normal[-1]), np.append(0, overlap)
    assert curves.aupro(pixels, 1.0) == pytest.approx(
        np.trapezoid(overlap, rate), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_thinned_curves_keep_ends_and_area(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((4, 40, 40)) < 0.02
    maps = (rng.standard_normal(masks.shape) + 2 * masks).astype(np.float32)
    pixels = ranking.rank_pixels(maps, masks)
    roc = curves.roc_curve(pixels)
    assert roc.x.size <= 500 and (np.diff(roc.x) >= 0).all()
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(curves.auroc(pixels), abs=5e-3)
    pro = curves.pro_curve(pixels, limit=0.3)
    assert pro.x.size <= 500 and pro.x[-1] == 0.3
    area = np.trapezoid(pro.y, pro.x) / 0.3
    assert area == pytest.approx(curves.aupro(pixels, 0.3), abs=5e-3)
    pr = curves.pr_curve(pixels)
    assert pr.x.size <= 500 and pr.x[-1] == 1.0
    assert pr.y[-1] == pytest.approx(masks.mean(), abs=1e-2)
    no_defect = ranking.rank_pixels(maps, masks & False)
    assert curves.roc_curve(no_defect).x.size == 0
