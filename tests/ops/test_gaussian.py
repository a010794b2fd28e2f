"""Mahalanobis distances against float64, SciPy and the sheet's hand examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis

from ad3d_jax.ops import gaussian

EPSILON = 0.01
# Four vectors whose covariance is 4/3 of the unit matrix, their mean (1,1).
SQUARE = np.array([(0, 0), (2, 0), (0, 2), (2, 2)], np.float32)[:, None]


def fitted(rows, epsilon=EPSILON, **options):
    """Returns the Gaussians of rows [N,P,D], whose moments come in two batches."""
    rows = np.asarray(rows, np.float32)
    mean = rows.mean(0, dtype=np.float64).astype(np.float32)
    parts = (rows[::2], rows[1::2])
    moments = sum(
        np.float64(gaussian.moments(part, mean, np.ones(len(part), np.float32)))
        for part in parts
    )
    return gaussian.fit(mean, moments, len(rows), epsilon, **options)


def distance(rows, queries, epsilon=EPSILON, **options):
    gaussians = fitted(rows, epsilon, **options)
    measure = jax.jit(gaussian.mahalanobis)
    found = measure(gaussians, jnp.asarray(queries, jnp.float32))
    return np.asarray(found, np.float64)


def truth(rows, queries, epsilon=EPSILON):
    """Position by position in float64, by SciPy."""
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    result = np.empty(queries.shape[:2])
    for place in range(rows.shape[1]):
        covariance = np.cov(rows[:, place].T) + epsilon * np.eye(rows.shape[2])
        inverse, mean = np.linalg.inv(covariance), rows[:, place].mean(0)
        for number, query in enumerate(queries[:, place]):
            result[number, place] = scipy_mahalanobis(query, mean, inverse)
    return result


def correlated(count, positions, dimensions, spread, seed=0):
    """Rows whose covariance has few large eigenvalues, as rectified features have."""
    rng = np.random.default_rng(seed)
    scale = spread * np.exp(-np.arange(dimensions) / 10)[:, None]
    mix = rng.standard_normal((dimensions, dimensions)) * scale
    rows = rng.standard_normal((count, positions, dimensions)) @ mix + 1
    return rows.astype(np.float32)


@pytest.mark.parametrize("epsilon", [0.01, 0.01001])
def test_the_hand_example(epsilon):
    found = distance(SQUARE, [[(3, 1)], [(1, 1)]], epsilon)
    expected = {0.01: 1.7255919, 0.01001: 1.7255855}[epsilon]
    np.testing.assert_allclose(found[:, 0], [expected, 0], rtol=2e-7)


@pytest.mark.parametrize(("count", "dimensions"), [(5, 2), (2, 9)])
def test_equal_vectors_leave_epsilon_alone(count, dimensions):
    rows = np.full((count, 1, dimensions), 3.0)
    query = np.arange(dimensions, dtype=float)[None, None]
    expected = 10 * np.linalg.norm(query[0, 0] - 3)
    np.testing.assert_allclose(distance(rows, query), [[expected]], rtol=1e-6)


@pytest.mark.parametrize(("count", "dimensions"), [(60, 100), (150, 100)])
def test_distances_agree_with_float64(count, dimensions):
    # The largest eigenvalue is some 1200 epsilon.
    rows = correlated(count, 3, dimensions, spread=0.3)
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((4, count)) / np.sqrt(count)
    # In the span of the training vectors, where a few samples leave epsilon alone.
    mean = rows.mean(0, keepdims=True)
    spanned = mean + np.einsum("bn,npd->bpd", weights, rows - mean)
    near = spanned + 1e-3 * rng.standard_normal(spanned.shape)
    far = spanned + 0.3 * rng.standard_normal(spanned.shape)
    for queries in (rows[:4], spanned, near, far):
        queries = queries.astype(np.float32)
        expected = truth(rows, queries)
        np.testing.assert_allclose(distance(rows, queries), expected, rtol=2e-5)


def test_a_row_that_does_not_count_adds_nothing():
    rows = correlated(5, 2, 4, 1.0)
    mean = rows[:3].mean(0)
    weight = np.float32([1, 1, 1, 0, 0])
    found = gaussian.moments(rows, mean, weight)
    centred = np.float64(rows[:3]) - mean
    expected = np.einsum("bpd,bpe->pde", centred, centred)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_moments_take_no_memory_of_a_sample():
    samples, positions, dimensions = 16, 8, 32
    rows = jnp.ones((samples, positions, dimensions))
    arguments = rows, rows[0], jnp.ones(samples)
    compiled = jax.jit(gaussian.moments).lower(*arguments).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes
    assert taken < 4 * samples * positions * dimensions**2 / 2


def test_blocks_of_positions_change_nothing():
    for count in (6, 40):
        rows = correlated(count, 7, 12, 1.0)
        queries = correlated(3, 7, 12, 1.0, seed=1)
        whole = distance(rows, queries)
        # Blocks of three positions: the last one goes over two of the one before.
        np.testing.assert_allclose(
            distance(rows, queries, block_bytes=3 * 12 * 12**2), whole, rtol=1e-5
        )


def test_doubled_samples_scale_the_covariance():
    rows = correlated(8, 2, 4, 1.0)
    queries = correlated(3, 2, 4, 1.0, seed=1)
    factor = 2 * 7 / 15
    doubled = distance(np.concatenate([rows, rows]), queries, factor * EPSILON)
    np.testing.assert_allclose(
        doubled, distance(rows, queries) / np.sqrt(factor), rtol=1e-4
    )


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples, found 1"):
        fitted(SQUARE[:1])
    with pytest.raises(ValueError, match="epsilon: expected a number above 0, found 0"):
        fitted(SQUARE, 0)
    with pytest.raises(ValueError, match=r"expected \[B,1,2\] to fit"):
        gaussian.mahalanobis(fitted(SQUARE), np.zeros((1, 2, 2)))
