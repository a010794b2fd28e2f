"""Local outlier factors by hand, and against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn
from sklearn.neighbors import LocalOutlierFactor

from ad3d_jax.ops.outliers import local_outlier_factor

factor_of = jax.jit(local_outlier_factor, static_argnums=2)


def on_a_line(*values):
    return jnp.float32(values)[:, None]


def test_a_regular_grid_by_hand():
    found = factor_of(on_a_line(*range(11)), jnp.ones(11, bool), 2)
    ends = [1.25, 1.25, 5 / 6]
    np.testing.assert_allclose(found, [*ends, 1, 1, 1, 1, 1, *ends[::-1]], rtol=1e-6)


def test_an_outlier_by_hand():
    found = factor_of(on_a_line(0, 1, 2, 3, 10), jnp.ones(5, bool), 2)
    np.testing.assert_allclose(found, [1, 1, 1, 1, 5], rtol=1e-6)


@pytest.mark.parametrize("neighbours", [2, 5, 9])
def test_agrees_with_scikit_learn(neighbours, parity):
    points = np.random.default_rng(neighbours).standard_normal((60, 7))
    points[:3] += 4
    model = LocalOutlierFactor(neighbours).fit(points)
    found = factor_of(np.float32(points), jnp.ones(60, bool), neighbours)
    expected = -model.negative_outlier_factor_
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    parity("M3DM-NR", sklearn, "local outlier factors", found, expected)


def test_points_that_are_absent_change_nothing():
    points = np.random.default_rng(4).standard_normal((20, 3)).astype(np.float32)
    present = np.arange(20) % 3 != 0
    found = factor_of(points, present, 4)
    np.testing.assert_allclose(
        found[present], factor_of(points[present], np.ones(13, bool), 4), rtol=1e-5
    )
    np.testing.assert_array_equal(found[~present], 1)


def test_moves_and_scales_change_nothing():
    points = np.random.default_rng(5).standard_normal((30, 3))
    turn, _ = np.linalg.qr(np.random.default_rng(6).standard_normal((3, 3)))
    moved = np.float32(3 * points @ turn + 2)
    there = np.ones(30, bool)
    one, other = (factor_of(np.float32(x), there, 5) for x in (points, moved))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_copies_and_few_points_have_factor_one():
    np.testing.assert_allclose(factor_of(jnp.ones((6, 2)), jnp.ones(6, bool), 3), 1)
    np.testing.assert_array_equal(factor_of(jnp.ones((1, 2)), jnp.ones(1, bool), 3), 1)
    nobody = factor_of(on_a_line(0, 1, 5), jnp.zeros(3, bool), 2)
    np.testing.assert_array_equal(nobody, 1)
    # Two present: each is the other's only neighbour.
    pair = factor_of(on_a_line(0, 1, 5), jnp.array([True, True, False]), 2)
    np.testing.assert_allclose(pair, 1)


def test_no_neighbours_are_refused():
    with pytest.raises(ValueError, match="neighbours: expected at least 1, found 0"):
        local_outlier_factor(jnp.ones((3, 2)), jnp.ones(3, bool), 0)
