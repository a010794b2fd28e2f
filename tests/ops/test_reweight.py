"""Re-weighted image scores against the hand example, SciPy and split banks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from padded_banks import pad
from scipy.special import softmax
from sklearn.neighbors import NearestNeighbors

from ad3d_jax.devices import engines
from ad3d_jax.ops import knn, reweight

# Worked by hand: the worst query (3,4) matches (5,5) at sqrt 5, whose support is
# (5,5), (0,2), (1,0), at sqrt 5, sqrt 13 and sqrt 20 of the query.
ROWS = np.array([(0, 0), (1, 0), (0, 2), (5, 5)], np.float32)
QUERIES = np.array([[(3, 4), (0, 1)]], np.float32)


def scored(rows, queries, kind, support):
    bank = knn.build(rows)
    flat = queries.reshape(-1, queries.shape[-1])
    found = knn.nearest(bank, jnp.asarray(flat))
    shape = queries.shape[:2]
    distance, number = (x.reshape(shape) for x in found)
    score = jax.jit(reweight.image_score, static_argnames=("kind", "support"))
    return score(bank, queries, distance, number, kind=kind, support=support)


def random_case(rows=60, samples=5, patches=7, dimensions=6, seed=0):
    rng = np.random.default_rng(seed)
    shape = (samples, patches, dimensions)
    bank = rng.standard_normal((rows, dimensions)).astype(np.float32)
    return bank, rng.standard_normal(shape).astype(np.float32)


def expected(rows, queries, kind, support):
    """The formula, sample by sample, from scikit-learn's neighbours."""
    model = NearestNeighbors(algorithm="brute").fit(rows)
    result = []
    for sample in queries:
        distance, number = model.kneighbors(sample, 1)
        worst = distance[:, 0].argmax()
        match = rows[number[worst, 0]]
        _, near = model.kneighbors(match[None], support)
        apart = np.linalg.norm(rows[near[0]] - sample[worst], axis=1)
        if kind == "paper":
            weight = 1 - softmax(apart)[0]
        else:
            apart = np.exp(apart / np.sqrt(rows.shape[1]))
            weight = 1 - apart[0] / apart[1:].sum()
        result.append(weight * distance[worst, 0])
    return np.array(result)


@pytest.mark.parametrize(
    ("kind", "weight", "score"),
    [("none", 1.0, 2.2361), ("paper", 0.93, 2.0796), ("ind_knn", 0.8666, 1.9377)],
)
def test_the_hand_example(kind, weight, score):
    (found,) = scored(ROWS, QUERIES, kind, 3)
    np.testing.assert_allclose(found, score, atol=5e-5)
    np.testing.assert_allclose(found / np.sqrt(5), weight, atol=5e-5)


@pytest.mark.parametrize("kind", ["paper", "ind_knn"])
@pytest.mark.parametrize("support", [2, 9])
def test_agrees_with_the_formula(kind, support):
    rows, queries = random_case()
    found = scored(rows, queries, kind, support)
    np.testing.assert_allclose(found, expected(rows, queries, kind, support), rtol=2e-5)


def test_a_large_distance_does_not_overflow():
    found = scored(1000 * ROWS, 1000 * QUERIES, "paper", 3)
    np.testing.assert_allclose(found, 1000 * np.sqrt(5), rtol=1e-6)


@pytest.mark.parametrize("kind", ["paper", "ind_knn"])
def test_a_divisor_and_an_epsilon_of_the_denominator(kind):
    # The hand example: three distances, each a thousandth, and 0.5 more below.
    bank, flat = knn.build(ROWS), jnp.asarray(QUERIES[0])
    distance, number = (x.reshape(1, 2) for x in knn.nearest(bank, flat))
    numbers = kind, 3, 1000.0, 0.5
    found = reweight.image_score(bank, QUERIES, distance, number, *numbers)
    apart = np.sqrt([5, 13, 20]) / 1000
    exponents = np.exp(apart / (np.sqrt(2) if kind == "ind_knn" else 1))
    below = exponents[0 if kind == "paper" else 1 :].sum() + 0.5
    expected = (1 - exponents[0] / below) * apart[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["paper", "ind_knn"])
def test_the_support_is_capped_by_the_bank(kind):
    np.testing.assert_array_equal(
        scored(ROWS, QUERIES, kind, 40), scored(ROWS, QUERIES, kind, 4)
    )
    # With one row alone the formula would say 0 of every sample.
    found = scored(ROWS[:1], QUERIES, kind, 9)
    np.testing.assert_allclose(found, 5.0, rtol=1e-6)


@pytest.mark.parametrize("kind", ["paper", "ind_knn"])
@pytest.mark.parametrize("rows", [1, 5, 17])
def test_a_split_bank_gives_the_same(kind, rows):
    devices, support = 4, 9
    bank, queries = random_case(rows=rows, samples=8)
    padded = pad(knn.build(bank), devices)
    across = engines.across(engines.make_engine("pmap"))

    def local(rows, half_norms, number, queries):
        own = dataclasses.replace(
            padded, rows=rows, half_norms=half_norms, number=number, across=across
        )
        found = knn.nearest(own, queries.reshape(-1, queries.shape[-1]))
        distance, matched = (x.reshape(queries.shape[:2]) for x in found)
        return reweight.image_score(own, queries, distance, matched, kind, support)

    leaves = (padded.rows, padded.half_norms, padded.number, queries)
    leaves = [x.reshape(devices, -1, *x.shape[1:]) for x in leaves]
    found = jax.jit(jax.vmap(local, axis_name=engines.AXIS))(*leaves).reshape(-1)
    np.testing.assert_allclose(found, scored(bank, queries, kind, support), rtol=1e-5)


def test_wrong_fields_are_refused():
    with pytest.raises(ValueError, match="reweight is 'papr', expected one of"):
        reweight.check("papr", 3)
    with pytest.raises(ValueError, match="support: expected at least 1 row, found 0"):
        reweight.check("paper", 0)
