"""The weights of the one-class SVM against scikit-learn's own scores."""

import numpy as np
import pytest
from sklearn.linear_model import SGDOneClassSVM

from ad3d_jax.ops import one_class_svm


def test_scores_are_a_weighted_sum():
    rows = np.random.default_rng(0).gamma(2.0, 1.0, (400, 3)).astype(np.float32)
    machine = SGDOneClassSVM(nu=0.3, max_iter=1000, random_state=42)
    machine.fit(rows.astype(np.float64))
    weights = one_class_svm.weights(rows, nu=0.3)
    np.testing.assert_allclose(
        rows @ weights, machine.score_samples(rows), rtol=1e-5, atol=1e-6
    )
    bound = machine.decision_function(rows) + machine.offset_
    np.testing.assert_allclose(rows @ weights, bound, rtol=1e-5, atol=1e-6)
    assert weights.dtype == np.float32 and (weights > 0).all()


def test_the_same_rows_give_the_same_bits_and_their_order_counts():
    rows = np.random.default_rng(1).gamma(2.0, 1.0, (300, 2)).astype(np.float32)
    one, again = (one_class_svm.weights(rows) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert (one != one_class_svm.weights(rows[::-1])).any()


def test_wrong_rows_are_refused():
    with pytest.raises(ValueError, match=r"expected rows \[N,D\], found \(0, 3\)"):
        one_class_svm.weights(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"nu in \(0, 1\], found 1.5"):
        one_class_svm.weights(np.ones((4, 3)), nu=1.5)
