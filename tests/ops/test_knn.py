"""Nearest neighbours against scikit-learn and float64, whole and split over devices."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn
from padded_banks import pad
from sklearn.neighbors import NearestNeighbors

from ad3d_jax.devices import engines
from ad3d_jax.ops import knn

DEVICES = engines.across(engines.make_engine("pmap"))


def data(rows=700, queries=40, dimensions=19, seed=0):
    rng = np.random.default_rng(seed)
    bank = rng.standard_normal((rows, dimensions)).astype(np.float32)
    return bank, rng.standard_normal((queries, dimensions)).astype(np.float32)


def tied(rows=500, queries=36, seed=1):
    """Few distinct rows of whole numbers: many tie, and unequal rows tie exactly."""
    rng = np.random.default_rng(seed)
    bank = rng.integers(0, 2, (rows, 6)).astype(np.float32)
    return bank, rng.integers(0, 2, (queries, 6)).astype(np.float32)


def truth(bank, queries, k):
    """Distances and numbers in float64, ties to the lowest number."""
    offsets = queries[:, None].astype(np.float64) - bank[None].astype(np.float64)
    distance = np.sqrt((offsets**2).sum(-1))
    number = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distance, number, 1), number


def on_devices(devices, function, bank, per_query, transform=jax.vmap):
    """Runs function(bank, queries) on rows and queries shared between devices.

    `per_query` may be a tree; each leaf is shared.
    """
    bank = pad(bank, devices)
    split = partial(jax.tree.map, lambda x: x.reshape(devices, -1, *x.shape[1:]))

    def local(rows, half_norms, number, per_query):
        own = dataclasses.replace(
            bank, rows=rows, half_norms=half_norms, number=number, across=DEVICES
        )
        return function(own, per_query)

    leaves = split((bank.rows, bank.half_norms, bank.number, per_query))
    found = jax.jit(transform(local, axis_name=engines.AXIS))(*leaves)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("chunk_bytes", [1, 2**25])
def test_agrees_with_scikit_learn(k, chunk_bytes, parity):
    rows, queries = data()
    model = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(rows)
    distance, number = model.kneighbors(queries)
    bank = knn.build(rows, chunk_bytes)
    found = jax.jit(partial(knn.nearest, k=k))(bank, queries)
    np.testing.assert_array_equal(found.number, number)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)
    parity("nearest neighbours", sklearn, "rows", found.number, number)
    parity("nearest neighbours", sklearn, "distances", found.distance, distance)


def test_chunks_have_a_budget_and_whole_tiles():
    assert knn.chunk_rows(784, 40_000, 1536, 2**25) == 2688
    assert 2688 * 4 * (2 * 784 + 1536) <= 2**25 < 2816 * 4 * (2 * 784 + 1536)
    assert knn.chunk_rows(25_000, 40_000, 1536, 2**20) == 128
    assert knn.chunk_rows(10, 50, 8, 2**25) == 50


def test_no_array_of_all_pairs_is_made():
    rows, queries = data(rows=4000, queries=500, dimensions=4)
    bank = knn.build(rows, chunk_bytes=2**18)
    program = jax.jit(knn.nearest).lower(bank, queries).compile()
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 4000 * 500 / 4
    whole = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    plan = knn.plan_bytes(500, 4000, 4, 2**18)
    # Beside the plan stand the rows' numbers and the answer.
    assert 0.9 * plan < whole < 1.1 * plan < 4 * 4000 * 500 / 4


@pytest.mark.parametrize("rows", [127, 128, 129, 256, 300])
def test_the_last_chunk_is_neither_lost_nor_seen_twice(rows):
    bank, queries = data(rows=rows)
    found = knn.nearest(knn.build(bank, chunk_bytes=1), queries, k=4)
    distance, number = truth(bank, queries, 4)
    np.testing.assert_array_equal(found.number, number)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)


@pytest.mark.parametrize("mode", knn.MODES)
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_ties_go_to_the_lowest_number_on_every_device_count(devices, mode):
    rows, queries = tied()
    for k in (1, 5):
        nearest = partial(knn.nearest, k=k, mode=mode)
        bank = knn.build(rows, chunk_bytes=1)
        found = on_devices(devices, nearest, bank, queries)
        distance, number = truth(rows, queries, k)
        np.testing.assert_array_equal(found.number, number)
        np.testing.assert_allclose(found.distance, distance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("rows", [701, 5])
def test_split_rows_give_what_whole_rows_give(devices, rows):
    # 701 is divisible by nothing; of 5 rows the fourth device holds padding alone.
    bank, queries = data(rows=rows)
    k = min(rows, 4)
    whole = knn.build(bank, chunk_bytes=1)
    found = on_devices(devices, partial(knn.nearest, k=k), whole, queries)
    distance, number = truth(bank, queries, k)
    np.testing.assert_array_equal(found.number, number)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)
    taken = on_devices(devices, knn.take, whole, np.asarray(found.number))
    np.testing.assert_allclose(taken, bank[number], rtol=1e-6, atol=1e-6)


def test_padding_is_never_found():
    bank, queries = data(rows=3)
    padded = pad(knn.build(bank), 8)
    assert padded.rows.shape == (8, 19) and np.isinf(padded.half_norms[3:]).all()
    found = knn.nearest(padded, queries, k=5)
    np.testing.assert_array_equal(found.number[:, :3], truth(bank, queries, 3)[1])
    assert (np.asarray(found.number[:, 3:]) == -1).all()
    assert np.isinf(found.distance[:, 3:]).all()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_large_offset_costs_no_digits(devices):
    # The expanded form without centring gives squares around -1800 here.
    rng = np.random.default_rng(2)
    rows = (1000 + 0.01 * rng.standard_normal((300, 1536))).astype(np.float32)
    fresh = (1000 + 0.01 * rng.standard_normal((20, 1536))).astype(np.float32)
    queries = np.concatenate([fresh, rows[:20]])
    found = on_devices(devices, knn.nearest, knn.build(rows), queries)
    distance, number = truth(rows, queries, 1)
    np.testing.assert_array_equal(found.number, number)
    np.testing.assert_allclose(found.distance[:20], distance[:20], rtol=1e-5)
    np.testing.assert_allclose(found.distance[20:], 0, atol=1e-6)


def test_the_fast_mode_measures_its_candidates_exactly():
    rows, queries = data(rows=900, dimensions=64)
    bank = knn.build(rows, chunk_bytes=1)
    found = jax.jit(partial(knn.nearest, mode="fast", k=2))(bank, queries)
    distance, number = truth(rows, queries, 2)
    np.testing.assert_array_equal(found.number, number)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)


# --- Among allowed rows ---------------------------------------------------------------


def memories(rows=700, groups=8, share=0.2, seed=4):
    """Returns which rows each group may find, [groups,rows]; of the third none."""
    allowed = np.random.default_rng(seed).random((groups, rows)) < share
    allowed[2] = False
    return allowed


def among(allowed, rows, queries, k):
    """Distances and numbers by scikit-learn in each group's own subset."""
    each = len(queries) // len(allowed)
    distance = np.full((len(queries), k), np.inf)
    number = np.full((len(queries), k), -1)
    for group, mask in enumerate(allowed):
        own = slice(group * each, (group + 1) * each)
        found = min(k, int(mask.sum()))
        if found:
            model = NearestNeighbors(n_neighbors=found, algorithm="kd_tree")
            near, place = model.fit(rows[mask]).kneighbors(queries[own])
            distance[own, :found] = near
            number[own, :found] = np.flatnonzero(mask)[place]
    return distance, number


@pytest.mark.parametrize("mode", knn.MODES)
@pytest.mark.parametrize("chunk_bytes", [1, 2**25])
@pytest.mark.parametrize("k", [1, 5])
def test_only_allowed_rows_are_found(mode, chunk_bytes, k):
    rows, queries = data()
    allowed = memories()
    allowed[3] = np.arange(700) == 699  # fewer than k
    bank = knn.build(rows, chunk_bytes)
    nearest = jax.jit(partial(knn.nearest, k=k, mode=mode))
    found = nearest(bank, queries, allowed=allowed)
    distance, number = among(allowed, rows, queries, k)
    np.testing.assert_array_equal(found.number, number)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)
    # One set of rows for all queries.
    found = nearest(bank, queries, allowed=allowed[0])
    distance, number = among(allowed[:1], rows, queries, k)
    np.testing.assert_array_equal(found.number, number)
    # All rows.
    everything = np.ones((2, 700), bool)
    for mask in (everything, everything[0]):
        whole, found = nearest(bank, queries), nearest(bank, queries, allowed=mask)
        jax.tree.map(np.testing.assert_array_equal, found, whole)


@pytest.mark.parametrize("mode", knn.MODES)
@pytest.mark.parametrize("devices", [2, 4])
def test_split_banks_find_allowed_rows_alone(devices, mode):
    # 701 rows: each device has padding or less.
    rows, queries = data(rows=701)
    allowed = memories(rows=701)
    allowed[5] = np.arange(701) >= 700  # on the last device alone

    def nearest(bank, both):
        own, mask = both
        return knn.nearest(bank, own, 3, mode, mask)

    bank = knn.build(rows, chunk_bytes=1)
    found = on_devices(devices, nearest, bank, (queries, allowed))
    distance, number = among(allowed, rows, queries, 3)
    np.testing.assert_array_equal(found.number, number)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_ties_among_allowed_rows_go_to_the_lowest_number(devices):
    rows, queries = tied()
    allowed = memories(rows=500, groups=4, share=0.5)

    def nearest(bank, both):
        return knn.nearest(bank, both[0], 4, allowed=both[1])

    bank = knn.build(rows, chunk_bytes=1)
    found = on_devices(devices, nearest, bank, (queries, allowed))
    for group in (0, 1, 3):
        own, places = slice(9 * group, 9 * group + 9), np.flatnonzero(allowed[group])
        distance, number = truth(rows[places], queries[own], 4)
        np.testing.assert_array_equal(found.number[own], places[number])
        np.testing.assert_allclose(found.distance[own], distance, atol=1e-6)
    assert (np.asarray(found.number[18:27]) == -1).all()


@pytest.mark.parametrize(
    "allowed",
    [
        np.ones((3, 6), bool),
        np.ones((2, 5), bool),
        np.ones((2, 6), np.float32),
        np.ones((1, 2, 6), bool),
    ],
)
def test_what_is_allowed_must_fit_the_queries(allowed):
    bank = knn.build(data(rows=6)[0])
    with pytest.raises(ValueError, match=r"bool \[M\] or \[G,M\].* 2 queries"):
        knn.nearest(bank, jnp.zeros((2, 19)), allowed=allowed)


# --- Rows themselves ------------------------------------------------------------------


def test_rows_come_back_as_they_were():
    rows, _ = data()
    number = np.array([[3, 699], [0, 3]])
    bank = knn.build(rows + 1000)
    np.testing.assert_array_equal(knn.take(bank, number), rows[number] + 1000)


def test_the_centre_is_near_the_mean_and_keeps_whole_numbers_exact():
    rng = np.random.default_rng(3)
    rows = (1000 + 0.01 * rng.standard_normal((9000, 3))).astype(np.float32)
    assert (np.abs(knn.centre(rows) - rows.mean(0, dtype=np.float64)) < 0.005).all()
    whole = rng.integers(-3, 9, (9000, 3)).astype(np.float32)
    np.testing.assert_array_equal(knn.centre(whole) % 1, 0)
    constant = np.full((7, 2), 0.3, np.float32)
    np.testing.assert_array_equal(knn.centre(constant), constant[0])


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="only a CPU shares the host's memory"
)
def test_a_cpu_device_takes_the_bank_over_without_a_copy():
    bank = knn.build(data(rows=5000)[0])
    placed = jax.device_put(bank.rows, jax.devices()[0])
    assert placed.unsafe_buffer_pointer() == bank.rows.ctypes.data


def test_an_empty_bank_is_refused():
    with pytest.raises(ValueError, match=r"N > 0, found \(0, 7\)"):
        knn.build(np.zeros((0, 7)))
    with pytest.raises(ValueError, match="has 0 rows"):
        knn.nearest(knn.empty(7), jnp.zeros((2, 7)))


def test_rows_that_are_not_finite_are_counted():
    rows, _ = data()
    rows[[3, 70]] = np.nan
    rows[5, 2] = np.inf
    with pytest.raises(ValueError, match="3 of 700"):
        knn.build(rows)


def test_misfits_are_named():
    bank = knn.build(data(rows=6)[0])
    with pytest.raises(ValueError, match=r"\[Q,19\].*\(2, 7\)"):
        knn.nearest(bank, jnp.zeros((2, 7)))
    with pytest.raises(ValueError, match="k is 7.* 6 rows"):
        knn.nearest(bank, jnp.zeros((2, 19)), k=7)
    with pytest.raises(ValueError, match="k is 0"):
        knn.nearest(bank, jnp.zeros((2, 19)), k=0)
    with pytest.raises(ValueError, match="'quick'.*exact, fast"):
        knn.nearest(bank, jnp.zeros((2, 19)), mode="quick")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_real_devices_agree(devices):
    transform = partial(jax.pmap, devices=jax.devices()[:devices])
    rows, queries = tied()
    bank = knn.build(rows, chunk_bytes=1)
    nearest = partial(knn.nearest, k=5)
    found = on_devices(devices, nearest, bank, queries, transform)
    np.testing.assert_array_equal(found.number, truth(rows, queries, 5)[1])
    taken = on_devices(devices, knn.take, bank, found.number, transform)
    np.testing.assert_allclose(taken, rows[found.number], atol=1e-6)
