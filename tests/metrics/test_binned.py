"""Histograms against the exact metrics, and the exactness of merging them."""

import math

import numpy as np
import pytest
from scipy import ndimage

from ad3d_jax.metrics import binned, exact, regions

NAMES = ("p_auroc", "p_ap", "aupro_30", "aupro_10", "aupro_05", "aupro_01")


def split(seed, count=12, size=64):
    """Smooth maps with lifted round regions, six images of them good."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((count, size, size)), (0, 2, 2))
    masks = ndimage.gaussian_filter(rng.standard_normal(field.shape), (0, 3, 3))
    masks = masks > np.quantile(masks, 0.97)
    masks[: count // 2] = False
    return (field / field.std() + 2.5 * masks).astype(np.float32), masks


def state_of(maps, mass, batch=5):
    """Fills histograms batch by batch; the last batch is padded with weight 0."""
    state = binned.empty()
    for start in range(0, len(maps), batch):
        rows = maps[start : start + batch]
        pad = [(0, batch - len(rows)), (0, 0), (0, 0)]
        state = binned.update(
            state,
            np.pad(rows, pad, constant_values=9.0),
            np.pad(mass[start : start + batch], pad, constant_values=3),
            (np.arange(batch) < len(rows)).astype(np.float32),
        )
    return state


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("heavy", [False, True])
def test_close_to_exact(seed, heavy):
    maps, masks = split(seed, count=40, size=160)
    if heavy:  # tails over many orders of magnitude
        maps = np.exp(4 * maps)
    state = state_of(maps, binned.region_mass(regions.label_regions(masks)))
    found = binned.compute(state)
    wanted = exact.evaluate(maps, masks, maps.max((1, 2)), masks.any((1, 2)) * 1)
    for name in NAMES:
        assert found.values[name] == pytest.approx(wanted.values[name], abs=1e-4), name
    f1 = wanted.values["p_f1max"]
    assert found.values["p_f1max"] == pytest.approx(f1, abs=1e-3)


def test_merging_changes_no_bit():
    maps, masks = split(0)
    mass = binned.region_mass(regions.label_regions(masks))
    whole = state_of(maps, mass)
    parts = [state_of(maps[k::3], mass[k::3], batch=2) for k in range(3)]
    for order in [(0, 1, 2), (2, 0, 1), (1, 2, 0)]:
        merged = binned.empty()
        for k in order:
            merged = binned.merge(merged, parts[k])
        for a, b in zip(merged, whole, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert binned.compute(merged) == binned.compute(whole)


def test_hosts_that_label_their_own_part_agree():
    maps, masks = split(1)
    total = int(regions.label_regions(masks).max())
    whole = state_of(maps, binned.region_mass(regions.label_regions(masks)))
    parts = [
        state_of(
            maps[k::2],
            binned.region_mass(regions.label_regions(masks[k::2]), total),
        )
        for k in range(2)
    ]
    merged = binned.merge(*parts)
    for a, b in zip(merged, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_counts_and_bins_against_numpy():
    values = np.float32(
        [-np.inf, -2.5, -1e-40, -0.0, 0.0, 1e-40, 0.3, 2.5, 2.51, np.inf]
    )
    maps = np.repeat(values, 3).reshape(1, 5, 6)
    state = binned.update(
        binned.empty(), maps, np.zeros(maps.shape, np.uint32), np.ones(1, np.float32)
    )
    ranking = binned.as_ranking(state)
    # 2.5 and 2.51 share a bin, and so do both zeros.
    np.testing.assert_array_equal(ranking.normal, [3, 9, 12, 15, 21, 24, 27, 30])
    assert ranking.threshold[0] == np.inf
    assert ranking.threshold[1] == 2.5
    assert (np.diff(ranking.threshold) < 0).all()
    assert (np.asarray(state.defect) == 0).all()


@pytest.mark.parametrize("sizes", [[1], [1, 2, 3], [7, 5000, 13, 1, 999]])
def test_each_region_has_the_same_whole_mass(sizes):
    labels = np.repeat(np.arange(len(sizes) + 1), [10, *sizes]).astype(np.int32)
    labels = np.random.default_rng(0).permutation(labels).reshape(1, 1, -1)
    mass = binned.region_mass(labels)
    share = (2**32 - 1) // len(sizes)
    assert (mass[labels == 0] == 0).all()
    for k in range(1, len(sizes) + 1):
        dealt = mass[labels == k].astype(np.int64)
        assert dealt.sum() == share
        assert dealt.max() - dealt.min() <= 1 and dealt.min() >= 1
    with pytest.raises(ValueError, match="at least"):
        binned.region_mass(labels, len(sizes) - 1)


def test_constant_maps_fit_one_bin():
    maps, masks = split(2)
    mass = binned.region_mass(regions.label_regions(masks))
    found = binned.compute(state_of(np.full_like(maps, 0.7), mass)).values
    assert found["p_auroc"] == 0.5
    assert found["p_ap"] == pytest.approx(masks.mean(), abs=1e-12)
    assert found["aupro_30"] == pytest.approx(0.15, abs=1e-12)


def test_undefined_and_nan():
    maps, masks = split(3)
    none = binned.region_mass(np.zeros(maps.shape, np.int32))
    found = binned.compute(state_of(maps, none))
    assert all(math.isnan(value) for value in found.values.values())
    assert "no defect pixel" in found.notes["aupro_30"]
    assert "no pixel" in binned.compute(binned.empty()).notes["p_auroc"]
    maps[0, 0, :2] = np.nan, -np.nan
    with pytest.raises(ValueError, match="NaN in 2 pixels"):
        binned.compute(state_of(maps, none))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("narrow", [1.0, 1e-4])
def test_exact_values_lie_in_the_bounds(seed, narrow):
    maps, masks = split(seed, count=9)
    maps = np.float32(0.9 + narrow * maps)
    scores, labels = maps.max((1, 2)), masks.any((1, 2)).astype(int)
    wanted = exact.evaluate(maps, masks, scores, labels)
    found, limits = binned.evaluate(maps, masks, scores, labels)
    assert limits.keys() == {*NAMES, "p_f1max"}
    for name, (low, high) in limits.items():
        assert low - 1e-9 <= wanted.values[name] <= high + 1e-9, name
        assert low - 1e-9 <= found.values[name] <= high + 1e-9, name
    # Of a narrow range few bins are left, which the bounds tell.
    width = limits["p_auroc"][1] - limits["p_auroc"][0]
    assert (width > 0.1) == (narrow < 1)
    for name in ("i_auroc", "i_ap", "i_f1max"):
        assert found.values[name] == wanted.values[name]
    assert math.isnan(found.values["aupro_30_compat"])
    assert "single pixels" in found.notes["aupro_30_compat"]


def test_bounds_by_hand():
    """One bin of two defects and three normal pixels; each defect is a region."""
    maps = np.full((1, 1, 5), 0.5, np.float32)
    masks = np.array([[[True, False, True, False, False]]])
    state = binned.filled(maps, masks)
    limits = binned.bounds(state)
    assert limits["p_auroc"] == (0.0, 1.0)
    assert limits["p_ap"] == pytest.approx(((1 / 4 + 2 / 5) / 2, 1.0))
    assert limits["p_f1max"] == pytest.approx((4 / 7, 1.0))
    assert limits["aupro_30"] == pytest.approx((0.0, 1.0))


def test_a_split_in_many_parts_is_filled_as_in_one(monkeypatch):
    maps, masks = split(5, count=9)
    whole = binned.filled(maps, masks)
    monkeypatch.setattr(binned, "ROWS", 4)
    for one, other in zip(binned.filled(maps, masks), whole, strict=True):
        np.testing.assert_array_equal(one, other)
    maps[6, 0, 0] = np.nan
    with pytest.raises(ValueError, match="seventh: the anomaly map holds NaN"):
        binned.filled(maps, masks, ["x"] * 6 + ["seventh"] + ["x"] * 2)
