import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.ops.ssim import ssim_map


def literal_ssim(a, b, window=11, sigma=1.5):
    """SSIM pixel by pixel in float64, zeros outside."""
    radius = window // 2
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel = np.outer(kernel, kernel) / np.outer(kernel, kernel).sum()
    a, b = (np.pad(np.float64(x), radius) for x in (a, b))
    height, width = a.shape[0] - 2 * radius, a.shape[1] - 2 * radius
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            at = np.s_[i : i + window, j : j + window]
            mean_a, mean_b = (kernel * a[at]).sum(), (kernel * b[at]).sum()
            var_a = (kernel * (a[at] - mean_a) ** 2).sum()
            var_b = (kernel * (b[at] - mean_b) ** 2).sum()
            covariance = (kernel * (a[at] - mean_a) * (b[at] - mean_b)).sum()
            result[i, j] = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
            result[i, j] /= (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    return result


def test_agrees_with_the_literal_loop():
    a, b = np.random.default_rng(0).random((2, 1, 14, 17, 2)).astype(np.float32)
    b = 0.7 * a + 0.3 * b
    similarity = ssim_map(a, b)
    for c in range(2):
        expected = literal_ssim(a[0, ..., c], b[0, ..., c])
        np.testing.assert_allclose(similarity[0, ..., c], expected, atol=2e-5)


def test_equal_images_score_one_and_order_does_not_matter():
    a, b = np.random.default_rng(1).random((2, 2, 12, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(ssim_map(a, a), 1.0, atol=1e-5)
    np.testing.assert_allclose(ssim_map(a, b), ssim_map(b, a), atol=1e-6)


def test_constant_images_by_hand():
    dark, light = jnp.full((1, 32, 32, 1), 0.2), jnp.full((1, 32, 32, 1), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)
    np.testing.assert_allclose(ssim_map(dark, light)[0, 16, 16], expected, rtol=1e-4)


def test_finite_with_gradient_far_outside_the_range():
    a = jnp.zeros((1, 16, 16, 1))
    for b in (
        a,
        jnp.full_like(a, 3e3),
        1e3 * jax.random.normal(jax.random.key(0), a.shape),
    ):
        value, gradient = jax.value_and_grad(lambda b: ssim_map(a, b).sum())(b)
        assert jnp.isfinite(value) and jnp.all(jnp.isfinite(gradient))
        assert jnp.all(jnp.abs(ssim_map(a, b)) <= 1.0 + 1e-5)
