"""Dense SIFT descriptors."""

import jax
import jax.numpy as jnp
import numpy as np

ANGLES = 8  # ranges of gradient directions
BINS = 4  # spatial bins along each side
BIN_SIZE = 4  # pixels along the side of a spatial bin
CLIP = 0.2  # largest share of one entry before the second normalisation
EPSILON = 1e-10  # keeps the length and direction of a flat pixel defined


def dense_sift(x: jax.Array, spacing: int = 1) -> jax.Array:
    """Returns a RootSIFT descriptor of every pixel, [B,h,w,128] float32 in [0,1].

    h = H + 3 - 3 * spacing, w likewise; the default keeps height and width. Channel
    a * 16 + i * 4 + j is the direction a in the bin of row i and column j.

    Source: Lowe (2004), Arandjelovic & Zisserman (CVPR 2012), as the
    `DenseSIFTDescriptor` of kornia in the version that BTF carries, whose 4 x 4 bins
    lie one pixel apart and so overlap. Later kornia (0.9) lays them 4 pixels apart
    (`spacing=4`) and gives a flat neighbourhood an empty descriptor; here, as in BTF,
    flat pixels vote for direction 0 with a length of 1e-5.

    Args:
        x: [B,H,W,1] float32.
        spacing: pixels between the centres of neighbouring spatial bins.
    """
    votes = _soft_votes(x[..., 0])
    weights = BIN_SIZE / 2 - np.abs(np.arange(BIN_SIZE) + 0.5 - BIN_SIZE / 2)
    weights = weights / (BIN_SIZE / 2)
    half = BIN_SIZE // 2
    bins = jnp.pad(votes, ((0, 0), (half, half), (half, half), (0, 0)))
    bins = _weighted_windows(_weighted_windows(bins, weights, 1), weights, 2)
    bins = jnp.pad(bins, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = (side - (BINS - 1) * spacing for side in bins.shape[1:3])
    starts = [spacing * number for number in range(BINS)]
    entries = [
        bins[:, row : row + height, column : column + width]
        for row in starts
        for column in starts
    ]
    entries = jnp.stack(entries, axis=-1)  # [B,h,w,directions,bins]
    entries = entries.reshape(*entries.shape[:3], ANGLES * BINS**2)
    entries = jnp.minimum(_unit(entries), CLIP)
    entries = _unit(entries)
    total = jnp.sum(entries, axis=-1, keepdims=True)
    return jnp.sqrt(entries / jnp.maximum(total, 1e-12) + EPSILON)


def _soft_votes(x: jax.Array) -> jax.Array:
    """Returns [B,H,W,8]: each pixel's gradient, shared by the two nearest directions.

    The image is continued by its border pixels.
    """
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    right = 0.5 * (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])
    down = 0.5 * (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])
    length = jnp.sqrt(right**2 + down**2 + EPSILON)
    angle = jnp.arctan2(down, right + EPSILON) + 2 * np.pi
    place = ANGLES * angle / (2 * np.pi)
    first = jnp.floor(place)
    share = (place - first)[..., None]
    first = first.astype(jnp.int32) % ANGLES
    second = (first + 1) % ANGLES
    votes = (1 - share) * jax.nn.one_hot(first, ANGLES)
    return (votes + share * jax.nn.one_hot(second, ANGLES)) * length[..., None]


def _weighted_windows(x: jax.Array, weights: np.ndarray, axis: int) -> jax.Array:
    """Returns the weighted sum of each window along an axis, no padding."""
    length = x.shape[axis] - len(weights) + 1
    return sum(
        float(weight) * jax.lax.slice_in_dim(x, start, start + length, axis=axis)
        for start, weight in enumerate(weights)
    )


def _unit(x: jax.Array) -> jax.Array:
    """Returns vectors of length 1; those shorter than 1e-12 are divided by that."""
    length = jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True))
    return x / jnp.maximum(length, 1e-12)
