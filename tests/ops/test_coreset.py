"""Greedy k-centre against a literal float64 loop, whole and split over devices."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.base import ALONE, State
from ad3d_jax.devices import engines
from ad3d_jax.ops import coreset

KEY = jax.random.key(0)


def reference(rows, count, caps=None):
    """The plain loop: the farthest row, of equally far ones the first, none twice."""
    rows = np.asarray(rows, np.float64)
    distance = np.full(len(rows), np.inf) if caps is None else np.array(caps)
    picked = []
    for _ in range(count):
        pick = int(np.argmax(distance))
        picked.append(pick)
        offsets = rows - rows[pick]
        distance = np.minimum(distance, np.sqrt((offsets**2).sum(1)))
        distance[picked] = -1
    return np.array(picked)


def gaussian(rows=2000, dimensions=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, dimensions)).astype(np.float32)


def tied(rows=900, seed=1):
    """Whole numbers on a small grid: every distance ties, and rows repeat."""
    return np.random.default_rng(seed).integers(0, 4, (rows, 3)).astype(np.float32)


def picks(rows, select, devices=None, key=KEY, transform=jax.vmap):
    """Returns what `select` picks, driven as the Gather driver drives it."""
    data, carry = select.prepare(key, State(), rows)
    if devices is None:
        advance = jax.jit(lambda data, carry: select.advance(data, carry, ALONE))
    else:
        engine = engines.make_engine("pmap", jax.devices()[:devices])
        data = shared(data, devices)
        across = engines.across(engine)

        def advance(data, carry):
            def local(data):
                return select.advance(data, carry, across)

            carries = jax.jit(transform(local, axis_name=engines.AXIS))(data)
            for leaf in carries:
                for device in leaf[1:]:
                    np.testing.assert_array_equal(device, leaf[0])
            return jax.tree.map(lambda leaf: leaf[0], carries)

    slices = 0
    while select.done(carry)[0] < select.done(carry)[1]:
        before = select.done(carry)[0]
        carry = advance(data, carry)
        assert select.done(carry)[0] > before
        slices += 1
    return select.take(rows, carry), slices


def shared(data, devices):
    """Rows filled up with copies of the last, of number -1, and split."""
    fill = -len(data["number"]) % devices

    def split(x):
        x = np.concatenate([x, np.repeat(x[-1:], fill, axis=0)])
        return jnp.asarray(x.reshape(devices, -1, *x.shape[1:]))

    number = np.concatenate([data["number"], np.full(fill, -1, np.int32)])
    return {**jax.tree.map(split, data), "number": number.reshape(devices, -1)}


@pytest.mark.parametrize("make", [gaussian, tied])
@pytest.mark.parametrize("devices", [None, 2, 3])
def test_the_picks_are_those_of_the_plain_loop(make, devices):
    rows = make()
    found, _ = picks(rows, coreset.greedy(0.15), devices)
    expected = reference(rows, int(0.15 * len(rows)))
    np.testing.assert_array_equal(found.number, expected)
    np.testing.assert_array_equal(found.rows, rows[expected])


@pytest.mark.parametrize("candidates", [1, 5])
def test_few_candidates_change_nothing(monkeypatch, candidates):
    monkeypatch.setattr(coreset, "CANDIDATES", candidates)
    for rows in (gaussian(rows=300), tied(rows=300)):
        found, _ = picks(rows, coreset.greedy(0.2), 2)
        np.testing.assert_array_equal(found.number, reference(rows, 60))


def test_slices_add_up(monkeypatch):
    rows = gaussian(rows=600)
    whole, slices = picks(rows, coreset.greedy(0.3))
    assert slices == 1
    monkeypatch.setitem(coreset.SLICE_BYTES, "cpu", 1)
    again, slices = picks(rows, coreset.greedy(0.3))
    assert slices >= 180 / coreset.PICKS
    np.testing.assert_array_equal(whole.number, again.number)


def test_the_published_hand_example():
    # {0, 1, 2, 10}, three picks: first the row 0, then the farthest, then the middle.
    rows = np.array([[0.0], [1.0], [2.0], [10.0]], np.float32)
    found, _ = picks(rows, coreset.greedy(0.75))
    np.testing.assert_array_equal(found.number, [0, 3, 2])


@pytest.mark.parametrize("seed", range(4))
def test_the_radius_is_at_most_twice_the_best(seed):
    rows = np.random.default_rng(seed).uniform(size=(12, 2)).astype(np.float32)
    between = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    found, _ = picks(rows, coreset.greedy(0.34))
    radius = between[:, found.number].min(1).max()
    best = min(
        between[:, list(chosen)].min(1).max()
        for chosen in itertools.combinations(range(12), 4)
    )
    assert best <= radius <= 2 * best + 1e-6


def test_a_random_start_is_the_first_pick():
    rows = gaussian(rows=500)
    select = coreset.greedy(0.1, "random")
    starts = set()
    for seed in range(3):
        found, _ = picks(rows, select, key=jax.random.key(seed))
        start = int(found.number[0])
        distance = np.linalg.norm(rows.astype(np.float64) - rows[start], axis=1)
        expected = [start, *reference(rows, 49, distance)]
        np.testing.assert_array_equal(found.number, expected)
        starts.add(start)
    assert len(starts) > 1


def test_a_start_of_ten_caps_the_distances_and_is_no_pick():
    rows = gaussian(rows=500)
    select = coreset.greedy(0.1, "mean_of_ten")
    data, carry = select.prepare(KEY, State(), rows)
    between = np.linalg.norm(rows[:, None].astype(np.float64) - rows[None], axis=-1)
    cap = np.sqrt(data["cap"])
    # Ten rows whose mean distance gives all 500 caps.
    weights, *_ = np.linalg.lstsq(between, cap, rcond=None)
    np.testing.assert_allclose(np.sort(weights)[-10:], 0.1, atol=1e-3)
    np.testing.assert_allclose(np.sort(weights)[:-10], 0.0, atol=1e-3)
    found, _ = picks(rows, select)
    np.testing.assert_array_equal(found.number, reference(rows, 50, cap))
    other, _ = picks(rows, select, key=jax.random.key(1))
    assert (found.number != other.number).any()


def test_distinct_rows_come_first_and_none_twice():
    distinct = np.arange(30, dtype=np.float32).reshape(10, 3) ** 2
    rows = np.tile(distinct, (20, 1))
    found, _ = picks(rows, coreset.greedy(0.2), 2)
    np.testing.assert_array_equal(found.number, reference(rows, 40))
    assert len(np.unique(found.rows[:10], axis=0)) == 10
    assert len(np.unique(found.number)) == 40


def test_rows_that_are_all_the_same():
    rows = np.full((50, 4), 0.3, np.float32)
    found, _ = picks(rows, coreset.greedy(0.5))
    np.testing.assert_array_equal(found.number, np.arange(25))


def test_a_large_offset_changes_no_pick():
    # Multiples of 1/8 up to 1000 are exact in float32.
    rows = np.round(gaussian(rows=400) * 8) / 8
    found, _ = picks(rows + 1000, coreset.greedy(0.2))
    np.testing.assert_array_equal(found.number, reference(rows, 80))


def test_the_whole_is_kept_in_order():
    rows = gaussian(rows=20)
    found, slices = picks(rows, coreset.greedy(1.0))
    np.testing.assert_array_equal(found.number, np.arange(20))
    np.testing.assert_array_equal(found.rows, rows)
    assert slices == 0


def test_rows_of_samples_are_numbered_by_sample_and_patch():
    rows = gaussian(rows=60).reshape(5, 12, 12)
    select = coreset.greedy(0.1)
    data, carry = select.prepare(KEY, State(), rows)
    found = select.take(rows, select.advance(data, carry, ALONE))
    expected = reference(rows.reshape(60, 12), 6)
    np.testing.assert_array_equal(found.number, expected)
    sample, patch = np.divmod(expected, 12)
    np.testing.assert_array_equal(found.rows, rows[sample, patch])
    assert found.number.dtype == np.int32


def test_projections_serve_the_choice_alone():
    rows = gaussian(rows=150, dimensions=200)
    for projection, dimensions in (("sparse", 123), ("dense", 128), ("none", 200)):
        select = coreset.greedy(0.1, projection=projection)
        data, _ = select.prepare(KEY, State(), rows)
        assert data["rows"].shape == (150, dimensions)
        found, _ = picks(rows, select)
        np.testing.assert_array_equal(found.rows, rows[found.number])
        expected = reference(data["rows"], 15)
        np.testing.assert_array_equal(found.number, expected)


@pytest.mark.parametrize("projection", ["sparse", "dense"])
def test_rows_of_few_dimensions_are_not_projected(projection):
    rows = gaussian(rows=100, dimensions=33)
    select = coreset.greedy(0.1, projection=projection)
    data, _ = select.prepare(KEY, State(), rows)
    assert data["rows"].shape == (100, 33)


def test_sizes():
    # 244 images of 784 patches, as published.
    assert coreset.coreset_size(191_296, 0.1) == 19_129
    assert coreset.coreset_size(5, 0.1) == 1
    assert coreset.coreset_size(5, 1) == 5


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_fractions_out_of_range_are_refused(fraction):
    for refuse in (coreset.greedy, lambda f: coreset.coreset_size(10, f)):
        with pytest.raises(ValueError, match=r"fraction: expected in \(0, 1\]"):
            refuse(fraction)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="start is 'zero'.*first"):
        coreset.greedy(0.1, "zero")
    with pytest.raises(ValueError, match="projection is 'gauss'.*sparse"):
        coreset.greedy(0.1, projection="gauss")
    select = coreset.greedy(0.1)
    with pytest.raises(ValueError, match="found 1 of 30"):
        rows = gaussian(rows=30)
        rows[4, 4] = np.nan
        select.prepare(KEY, State(), rows)


@pytest.mark.parametrize("devices", [None, 3])
def test_in_float16_all_is_rounded_as_in_the_public_loop(devices):
    rows = 40 * np.abs(gaussian(601, 4, seed=11))
    select = coreset.greedy(0.3, precision="float16")
    found, _ = picks(rows, select, devices)
    halves = rows.astype(np.float16)
    distance = np.linalg.norm(rows - rows[0], axis=1).astype(np.float16)
    expected = [0]
    while len(expected) < 180:
        offsets = (halves - halves[expected[-1]]).astype(np.float32)
        away = np.sqrt((offsets**2).sum(1)).astype(np.float16)
        distance = np.minimum(distance, away)
        distance[expected[-1]] = 0
        expected.append(int(np.argmax(distance)))
    np.testing.assert_array_equal(found.number, expected)
    exact, _ = picks(rows, coreset.greedy(0.3))
    assert not np.array_equal(exact.number, expected), "rounding decides nothing"
    np.testing.assert_array_equal(found.rows, rows[expected])


def test_float16_keeps_all_in_order_and_starts_from_the_first_alone():
    everything, _ = picks(gaussian(20), coreset.greedy(1.0, precision="float16"))
    np.testing.assert_array_equal(everything.number, np.arange(20))
    with pytest.raises(ValueError, match="in float16 expected 'first'"):
        coreset.greedy(0.1, start="random", precision="float16")
    with pytest.raises(ValueError, match="precision is 'bfloat16'"):
        coreset.greedy(0.1, precision="bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("make", [gaussian, tied])
def test_real_devices_agree(make):
    rows = make()
    transform = partial(jax.pmap, devices=jax.devices()[:4])
    found, _ = picks(rows, coreset.greedy(0.15), 4, transform=transform)
    expected = reference(rows, int(0.15 * len(rows)))
    np.testing.assert_array_equal(found.number, expected)
