"""Separable filters, written as products with band matrices.

XLA's depthwise convolutions are slow on CPU, their gradients even more so; a dense
product with a band matrix is some twenty times faster there and fast everywhere else.
"""

import jax
import jax.numpy as jnp
import numpy as np


def filter_separable(
    x: jax.Array, rows: jax.Array, columns: jax.Array, border: str = "zero"
) -> jax.Array:
    """Returns x correlated with the outer product of two kernels, [B,H,W,C] float32.

    Args:
        x: [B,H,W,C] float32.
        rows: kernel along H, [2r+1] float32, may be traced.
        columns: kernel along W, [2s+1] float32.
        border: "zero" for zeros outside, "reflect" for mirrored pixels, the outermost
            repeated (d c b a | a b c d | d c b a).

    Raises:
        ValueError: an even kernel, an unknown border, or a mirrored kernel whose radius
            is larger than the image.
    """
    rows = band_matrix(rows, x.shape[1], border)
    columns = band_matrix(columns, x.shape[2], border)
    precision = jax.lax.Precision.HIGHEST
    x = jnp.einsum("ih,bhwc->biwc", rows, x, precision=precision)
    return jnp.einsum("jw,biwc->bijc", columns, x, precision=precision)


def band_matrix(kernel: jax.Array, length: int, border: str = "zero") -> jax.Array:
    """Returns the matrix [length, length] that correlates a signal with the kernel."""
    kernel = jnp.asarray(kernel, jnp.float32)
    radius = kernel.shape[0] // 2
    if kernel.shape[0] % 2 == 0:
        raise ValueError(f"kernel: expected an odd length, found {kernel.shape[0]}")
    if border not in ("zero", "reflect"):
        raise ValueError(f"border: expected 'zero' or 'reflect', found {border!r}")
    if border == "reflect" and radius > length:
        raise ValueError(
            f"kernel: radius {radius} is larger than the image side {length}"
        )
    padded = jnp.pad(kernel, 1)  # the ends stand for all that is out of reach

    def band(source: np.ndarray):
        offset = source[None, :] - np.arange(length)[:, None] + radius + 1
        return padded[np.clip(offset, 0, 2 * radius + 2)]

    pixels = np.arange(length)
    matrix = band(pixels)
    if border == "reflect":
        matrix += band(-1 - pixels) + band(2 * length - 1 - pixels)
    return matrix


def gaussian_kernel(sigma: float, radius: int) -> np.ndarray:
    """Returns Gaussian weights at -radius..radius that add up to 1, float32."""
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def gaussian_blur(
    x: jax.Array, sigma: float, truncate: float = 4.0, border: str = "reflect"
) -> jax.Array:
    """Returns x [B,H,W,C] blurred with a Gaussian of `sigma` pixels, float32.

    The kernel ends at round(truncate * sigma) pixels; as scipy.ndimage.gaussian_filter
    with its default border. `border` as in `filter_separable`.
    """
    kernel = gaussian_kernel(sigma, int(truncate * sigma + 0.5))
    return filter_separable(x, kernel, kernel, border)


def mean_filter(x: jax.Array, size: int) -> jax.Array:
    """Returns the mean over size x size windows of x [B,H,W,C], float32.

    Zeros outside the image count: the divisor is always size squared; size is odd.

    Source: image score of DRAEM (arXiv 2108.07610), size 21.
    """
    kernel = np.full(size, 1.0 / size, np.float32)
    return filter_separable(x, kernel, kernel)
