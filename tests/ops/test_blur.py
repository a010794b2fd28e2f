import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ad3d_jax.ops.blur import filter_separable, gaussian_blur, mean_filter


def pictures(shape=(2, 23, 30, 2)):
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 3, 21])
def test_mean_filter_agrees_with_scipy(size):
    x = pictures()
    expected = ndimage.uniform_filter(
        x.astype(np.float64), size=(1, size, size, 1), mode="constant"
    )
    np.testing.assert_allclose(mean_filter(x, size), expected, atol=1e-6)


def test_corner_of_a_mean_of_ones():
    ones = jnp.ones((1, 64, 64, 1))
    assert float(mean_filter(ones, 21)[0, 0, 0, 0]) == pytest.approx(0.2744, abs=5e-5)


@pytest.mark.parametrize("sigma", [0.8, 2.0, 4.0])
@pytest.mark.parametrize(
    ("border", "mode"), [("reflect", "reflect"), ("zero", "constant")]
)
def test_gaussian_blur_agrees_with_scipy(sigma, border, mode):
    x = pictures()
    expected = ndimage.gaussian_filter(
        x.astype(np.float64), (0, sigma, sigma, 0), mode=mode, truncate=4.0
    )
    blurred = gaussian_blur(x, sigma, truncate=4.0, border=border)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_skewed_kernels_agree_with_scipy():
    x, generator = pictures(), np.random.default_rng(1)
    rows, columns = generator.random(5), generator.random(9)
    expected = ndimage.correlate1d(x.astype(np.float64), rows, axis=1, mode="constant")
    expected = ndimage.correlate1d(expected, columns, axis=2, mode="constant")
    traced = jax.jit(filter_separable)(x, rows, columns)
    np.testing.assert_allclose(traced, expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_filtered_is_refused():
    x = np.zeros((1, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match="odd"):
        mean_filter(x, 4)
    with pytest.raises(ValueError, match="radius 16"):
        gaussian_blur(x, 4.0)
    with pytest.raises(ValueError, match="border"):
        gaussian_blur(x, 0.5, border="wrap")
