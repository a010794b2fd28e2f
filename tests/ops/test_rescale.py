import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.ops.rescale import double, max_pool


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 1, 5, 2)])
def test_double_is_linear_interpolation_between_aligned_corners(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = x.astype(np.float64)
    for axis in (1, 2):
        n = shape[axis]
        places = np.linspace(0, n - 1, 2 * n)
        expected = np.apply_along_axis(
            lambda line, places=places, n=n: np.interp(places, np.arange(n), line),
            axis,
            expected,
        )
    np.testing.assert_allclose(double(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_max_pool_and_its_gradient():
    x = np.random.default_rng(1).permutation(96).reshape(1, 4, 8, 3).astype(np.float32)
    y, pull = jax.vjp(max_pool, jnp.asarray(x))
    (gradient,) = pull(jnp.ones_like(y))
    for i in range(2):
        for j in range(4):
            cell = x[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            np.testing.assert_array_equal(y[0, i, j], cell.max((0, 1)))
            got = gradient[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            np.testing.assert_array_equal(got, cell == cell.max((0, 1)))
