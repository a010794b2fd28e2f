"""Signed, smooth, skewed displacement of a depth map: DAS3D."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.ops.blur import filter_separable
from ad3d_jax.ops.perlin import MAX_EXPONENT, rotated_perlin_noise


class Displacement(NamedTuple):
    """Ranges of the maker; each may be a number or a 0-d array.

    Lengths are pixels of the image at hand, depths normalised ones.
    """

    threshold: float = 0.5  # of the Perlin noise, on either side of 0
    sigma_low: float = 1.0  # spread of the kernel, from here
    sigma_high: float = 6.0  # to here
    skew: float = 4.0  # largest skewness parameter, either way
    amplitude_low: float = 0.05  # largest change of a sample's depth, from here
    amplitude_high: float = 0.3  # to here
    support: float = 0.05  # part of the amplitude from which on a pixel counts
    lowest_exponent: int = 0  # of the Perlin frequencies 2^a x 2^b
    highest_exponent: int = MAX_EXPONENT
    mask_rotation: float = 90.0  # largest turn of the noise, degrees


DEFAULTS = Displacement()
REACH = 18  # pixels, three times the largest sigma of the defaults


class Displaced(NamedTuple):
    """One displaced depth map and where it differs."""

    depth: jax.Array  # [H,W,1] float32
    mask: jax.Array  # [H,W,1] bool
    profile: jax.Array  # [H,W,1] float32 in [-1,1], positive where depth grows


def displace(
    key: jax.Array,
    depth: jax.Array,
    foreground: jax.Array,
    parameters: Displacement = DEFAULTS,
    reach: int = REACH,
) -> Displaced:
    """Returns the depth with smooth hollows and bulges on the foreground.

    Two-sided Perlin noise says where it goes up and where down, a skew-Gaussian filter
    of random spread and skewness rounds the steps, and the result is added with a
    random amplitude, clipped to [0,1].

    Positive means a larger value: where the values are distances from the camera, +1 is
    concave; where they are heights over a table, +1 is convex. Both signs are equally
    likely.

    Args:
        key: typed key.
        depth: normalised depth [H,W,1] float32 in [0,1].
        foreground: [H,W,1] bool.
        parameters: ranges.
        reach: radius of the kernel in pixels, ceil(3 sigma_high) or more.

    Source: DAS3D (arXiv 2410.09821) names ternary noise, skew-Gaussian filter and
    displacement; formulas and constants are ours.
    """
    noise_key, sigma_key, skew_key, amplitude_key = jax.random.split(key, 4)
    noise = rotated_perlin_noise(
        noise_key,
        *depth.shape[:2],
        parameters.mask_rotation,
        (parameters.lowest_exponent, parameters.highest_exponent),
    )
    steps = ternary_mask(noise[..., None], foreground, parameters.threshold)
    sigma = _uniform(sigma_key, parameters.sigma_low, parameters.sigma_high, (2,))
    skew = _uniform(skew_key, -parameters.skew, parameters.skew, (2,))
    rows, columns = (
        skew_gaussian_kernel(sigma[axis], skew[axis], reach) for axis in range(2)
    )
    profile = filter_separable(steps[None], rows, columns)[0]
    amplitude = _uniform(
        amplitude_key, parameters.amplitude_low, parameters.amplitude_high, ()
    )
    # From the profile, not from the steps: smoothing widens what is altered.
    mask = foreground & (jnp.abs(profile) > parameters.support)
    moved = jnp.clip(depth + amplitude * profile, 0.0, 1.0)
    return Displaced(jnp.where(mask, moved, depth), mask, profile)


def ternary_mask(
    noise: jax.Array, foreground: jax.Array, threshold: jax.Array | float
) -> jax.Array:
    """Returns F (1[P > t] - 1[P < -t]): 1, -1 or 0, [H,W,1] float32.

    Args:
        noise: P [H,W,1] float32.
        foreground: F [H,W,1] bool.
        threshold: t >= 0.
    """
    above = (noise > threshold) & foreground
    below = (noise < -threshold) & foreground
    return above.astype(jnp.float32) - below.astype(jnp.float32)


def skew_gaussian_kernel(
    sigma: jax.Array | float, skew: jax.Array | float, reach: int
) -> jax.Array:
    """Returns phi(t/sigma) Phi(skew t/sigma), t = -reach..reach, of sum 1, float32.

    phi and Phi are the standard normal density and distribution function. The mean is
    near sigma sqrt(2/pi) skew / sqrt(1 + skew^2).

    Args:
        sigma: spread in pixels, > 0.
        skew: 0 is a plain Gaussian; large values give one steep and one shallow flank.
        reach: pixels on either side.
    """
    t = jnp.arange(-reach, reach + 1, dtype=jnp.float32) / sigma
    weights = jnp.exp(-0.5 * t**2) * jax.scipy.stats.norm.cdf(skew * t)
    return weights / jnp.sum(weights)


def _uniform(key, low, high, shape: tuple[int, ...]) -> jax.Array:
    """Returns uniform numbers between bounds that may be traced."""
    return low + (high - low) * jax.random.uniform(key, shape)
