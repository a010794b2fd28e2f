"""Separable filters, written as products with band matrices.

XLA's depthwise convolutions are slow on CPU, their gradients even more so; a dense
product with a band matrix is some twenty times faster there and fast everywhere else.
"""

import jax
import jax.numpy as jnp
import numpy as np

BORDERS = ("reflect", "mirror")


def filter_separable(
    x: jax.Array, rows: jax.Array, columns: jax.Array, border: str = "zero"
) -> jax.Array:
    """Returns x correlated with the outer product of two kernels, [B,H,W,C] float32.

    Args:
        x: [B,H,W,C] float32.
        rows: kernel along H, [2r+1] float32, may be traced.
        columns: kernel along W, [2s+1] float32.
        border: "zero" for zeros outside, "reflect" for mirrored pixels, the outermost
            repeated (d c b a | a b c d | d c b a), "mirror" for those with the
            outermost once (d c b | a b c d | c b a); the names are scipy's.

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
    if border not in ("zero", *BORDERS):
        raise ValueError(f"border: expected 'zero' or {BORDERS}, found {border!r}")
    if border != "zero" and radius > length - (border == "mirror"):
        raise ValueError(
            f"kernel: radius {radius} is too large for the image side {length}"
        )
    padded = jnp.pad(kernel, 1)  # the ends stand for all that is out of reach

    def band(source: np.ndarray):
        offset = source[None, :] - np.arange(length)[:, None] + radius + 1
        return padded[np.clip(offset, 0, 2 * radius + 2)]

    pixels = np.arange(length)
    matrix = band(pixels)
    if border == "reflect":
        matrix += band(-1 - pixels) + band(2 * length - 1 - pixels)
    if border == "mirror":
        before = jnp.where((pixels > 0)[None], band(-pixels), 0.0)
        behind = band(2 * (length - 1) - pixels)
        matrix += before + jnp.where((pixels < length - 1)[None], behind, 0.0)
    return matrix


def gaussian_kernel(sigma: float, radius: int) -> np.ndarray:
    """Returns Gaussian weights at -radius..radius that add up to 1, float32.

    Raises:
        ValueError: a sigma that is not above 0.
    """
    if not sigma > 0:
        raise ValueError(f"sigma of a Gaussian: expected above 0, found {sigma}")
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def gaussian_blur(
    x: jax.Array, sigma: float, truncate: float = 4.0, border: str = "reflect"
) -> jax.Array:
    """Returns x [B,H,W,C] blurred with a Gaussian of `sigma` pixels, float32.

    The kernel ends at round(truncate * sigma) pixels; as scipy.ndimage.gaussian_filter
    with its default border, a sigma of 0 leaves x as it is. `border` as in
    `filter_separable`.

    Raises:
        ValueError: a negative sigma, and as `filter_separable`.
    """
    if sigma == 0:
        return x
    kernel = gaussian_kernel(sigma, int(truncate * sigma + 0.5))
    return filter_separable(x, kernel, kernel, border)


def blur_8bit(x: jax.Array, radius: float = 4.0) -> jax.Array:
    """Returns x [B,H,W,1] blurred as an 8-bit grey image, float32.

    Each sample is divided by its largest value, cut to whole 255ths, blurred by three
    box filters in each direction with Pillow's integer arithmetic, and multiplied back,
    so that it has at most 256 levels. A sample without positive values becomes 0.

    Source: the maps of BTF and its descendants (M3DM, CPMF, Shape-Guided), which pass
    through `PIL.ImageFilter.GaussianBlur`; equal to Pillow 9.3 to 13 in every level.

    Args:
        x: [B,H,W,1] float32, finite; what is below 0 counts as 0.
        radius: standard deviation that the boxes come close to, pixels.
    """
    largest = jnp.maximum(jnp.max(x, axis=(1, 2, 3), keepdims=True), 0.0)
    share = _divide(jnp.maximum(x, 0.0), jnp.where(largest > 0, largest, 1.0))
    levels = (share * 255.0).astype(jnp.uint32)
    for axis in (2, 2, 2, 1, 1, 1):
        levels = _box_filter(levels, _box_radius(radius), axis)
    return _divide(levels.astype(jnp.float32), jnp.float32(255)) * largest


def _divide(x: jax.Array, divisor: jax.Array) -> jax.Array:
    """Returns x / divisor, correctly rounded.

    XLA multiplies by the reciprocal of a scalar, which makes 254 of some 255.
    """
    divisor = jnp.broadcast_to(divisor, x.shape)
    return x / jax.lax.optimization_barrier(divisor)


def _box_radius(sigma: float, passes: int = 3) -> np.float32:
    """Returns the half length of the boxes that together come close to a Gaussian.

    Source: Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended
    box filtering" (2011), equations 7, 11 and 14, in Pillow's single precision.
    """
    variance = np.float32(sigma) * np.float32(sigma) / np.float32(passes)
    whole = np.floor((np.sqrt(12.0 * float(variance) + 1) - 1) / 2).astype(np.float32)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + part / (6 * (variance - (whole + 1) * (whole + 1)))


def _box_filter(levels: jax.Array, radius: np.float32, axis: int) -> jax.Array:
    """Returns uint32 levels 0..255 averaged along an axis, edge pixels repeated.

    The pixels beyond the whole part of the radius weigh what is left of it. Weights are
    24-bit fractions and sums are rounded half up; none exceeds 32 bits.
    """
    whole, length = int(radius), levels.shape[axis]
    weight = int(np.float32(2**24) / (2 * radius + 1))
    far_weight = (2**24 - (2 * whole + 1) * weight) // 2
    pad = [(whole + 1, whole + 1) if a == axis else (0, 0) for a in range(levels.ndim)]
    padded = jnp.pad(levels, pad, mode="edge")
    shifted = [
        jax.lax.slice_in_dim(padded, start, start + length, axis=axis)
        for start in range(2 * whole + 3)
    ]
    near, far = sum(shifted[1:-1]), shifted[0] + shifted[-1]
    total = near * jnp.uint32(weight) + far * jnp.uint32(far_weight)
    return (total + jnp.uint32(2**23)) >> 24


def mean_filter(x: jax.Array, size: int) -> jax.Array:
    """Returns the mean over size x size windows of x [B,H,W,C], float32.

    Zeros outside the image count: the divisor is always size squared; size is odd.
    """
    kernel = np.full(size, 1.0 / size, np.float32)
    return filter_separable(x, kernel, kernel)


def largest_mean(x: jax.Array, size: int) -> jax.Array:
    """Returns the largest mean over a size x size window of x [B,H,W,C], [B] float32.

    See `mean_filter`. Source: image score of DRAEM (arXiv 2108.07610).
    """
    return jnp.max(mean_filter(x, size), axis=(1, 2, 3))
