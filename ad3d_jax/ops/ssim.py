"""Structural similarity."""

import jax
import jax.numpy as jnp

from ad3d_jax.ops.blur import filter_separable, gaussian_kernel


def ssim_map(
    a: jax.Array, b: jax.Array, window: int = 11, sigma: float = 1.5
) -> jax.Array:
    """Returns the structural similarity of every pixel and channel, [B,H,W,C] <= 1.

    Args:
        a: [B,H,W,C] float32, of data range 1.
        b: like a.
        window: odd side of the Gaussian window, pixels; zeros outside the image.
        sigma: of the window, pixels.

    C1 = 0.01^2, C2 = 0.03^2.

    Source: Wang et al. 2004 (IEEE TIP 13-4) as used by DRAEM (arXiv 2108.07610).
    """
    c1, c2 = 1e-4, 9e-4
    kernel = gaussian_kernel(sigma, window // 2)

    def local_mean(x):
        return filter_separable(x, kernel, kernel)

    mean_a, mean_b = local_mean(a), local_mean(b)
    product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    # Rounding can make the difference of a large unclipped reconstruction negative.
    variances = jnp.maximum(local_mean(a * a + b * b) - squares, 0.0)
    covariance = local_mean(a * b) - product
    luminance = (2.0 * product + c1) / (squares + c1)
    return luminance * (2.0 * covariance + c2) / (variances + c2)
