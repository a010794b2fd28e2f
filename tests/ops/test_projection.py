import jax
import numpy as np
import pytest
from sklearn.random_projection import (
    SparseRandomProjection,
    johnson_lindenstrauss_min_dim,
)

from ad3d_jax.ops import projection


@pytest.mark.parametrize("eps", [0.1, 0.5, 0.9, 0.99])
def test_the_dimension_is_scikit_learns(eps):
    for count in [1, 2, 3, 10, 784, 17_483, 174_832, 191_296, 1_000_000]:
        found = projection.johnson_lindenstrauss_dimension(count, eps)
        assert found == johnson_lindenstrauss_min_dim(count, eps=eps)


def test_the_dimension_of_a_published_bank():
    # 244 images of 784 patches.
    assert projection.johnson_lindenstrauss_dimension(191_296) == 300


@pytest.mark.parametrize(("count", "eps"), [(0, 0.9), (10, 0.0), (10, 1.0)])
def test_what_has_no_dimension_is_refused(count, eps):
    with pytest.raises(ValueError, match=f"found {count} and {eps}"):
        projection.johnson_lindenstrauss_dimension(count, eps)


def test_the_sparse_matrix_is_distributed_like_scikit_learns():
    features, dimensions = 900, 250
    found = np.asarray(
        projection.sparse_projection(jax.random.key(0), features, dimensions)
    )
    fitted = SparseRandomProjection(dimensions, random_state=0)
    theirs = fitted.fit(np.zeros((2, features))).components_.toarray().T
    assert found.shape == theirs.shape
    np.testing.assert_allclose(np.unique(found), np.unique(theirs), rtol=1e-6)
    # 225,000 draws: the standard error of each share is below 0.0004.
    for value in np.unique(theirs):
        share = np.isclose(theirs, value).mean()
        assert np.isclose(found, value).mean() == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize(
    "draw", [projection.sparse_projection, projection.dense_projection]
)
def test_keys_decide(draw):
    one, again, other = (draw(jax.random.key(seed), 30, 8) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).any()


def test_the_dense_matrix_is_uniform():
    found = np.asarray(projection.dense_projection(jax.random.key(0), 400, 128))
    assert found.shape == (400, 128)
    assert 0.0499 < found.max() <= 0.05 and -0.05 <= found.min() < -0.0499
    assert found.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.02)


@pytest.mark.slow
def test_the_dense_matrix_is_the_default_linear_layer():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.Linear(400, 128, bias=False).weight.detach().numpy().T
    found = np.asarray(projection.dense_projection(jax.random.key(0), 400, 128))
    assert found.shape == theirs.shape
    shares = np.linspace(0, 1, 21)
    np.testing.assert_allclose(
        np.quantile(found, shares), np.quantile(theirs, shares), atol=0.001
    )
