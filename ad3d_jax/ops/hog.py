"""Histograms of oriented gradients."""

import jax
import jax.numpy as jnp
import numpy as np

EPSILON = 1e-5  # added (squared) to the squared length of a histogram
CLIP = 0.2  # largest share of one orientation before the second normalisation


def hog(x: jax.Array, cell: int = 8, orientations: int = 8) -> jax.Array:
    """Returns one histogram of gradient directions a cell, [B,H/cell,W/cell,O] float32.

    A gradient is the difference of the two neighbours, 0 on the border; it votes with
    its length for the range of directions (of 180 degrees) it lies in. Each cell is
    normalised by itself: to unit length, clipped, to unit length again.

    Source: Dalal & Triggs (CVPR 2005) as `skimage.feature.hog` with cells_per_block
    (1, 1), block_norm "L2-Hys". That one computes angles, ours compares slopes, so that
    a direction exactly between two ranges falls into the same one on every device.

    Args:
        x: [B,H,W,1] float32; rows and columns beyond whole cells are left out.
        cell: side of a cell, pixels.
        orientations: number of ranges; range i begins at i * 180 / orientations
            degrees and contains its beginning.
    """
    x = x[..., 0]
    down = jnp.pad(x[:, 2:] - x[:, :-2], ((0, 0), (1, 1), (0, 0)))
    right = jnp.pad(x[:, :, 2:] - x[:, :, :-2], ((0, 0), (0, 0), (1, 1)))
    # A direction and its opposite are one: turn all to [0, 180) degrees.
    turn = (down < 0) | ((down == 0) & (right < 0))
    down, right = jnp.where(turn, -down, down), jnp.where(turn, -right, right)
    passed = [
        down * cosine - right * sine >= 0 for cosine, sine in _borders(orientations)
    ]
    number = sum(border.astype(jnp.int32) for border in passed)
    votes = jax.nn.one_hot(number, orientations) * jnp.hypot(down, right)[..., None]
    count, rows, columns = x.shape[0], x.shape[1] // cell, x.shape[2] // cell
    votes = votes[:, : rows * cell, : columns * cell]
    votes = votes.reshape(count, rows, cell, columns, cell, orientations)
    cells = _normalise(jnp.mean(votes, axis=(2, 4)))
    return _normalise(jnp.minimum(cells, CLIP))


def _borders(orientations: int) -> list[tuple[float, float]]:
    """Returns (cosine, sine) of the inner borders, the larger of the two being 1.

    So scaled, 45, 90 and 135 degrees are exact, and a comparison with them too.
    """
    borders = []
    for angle in np.arange(1, orientations) * (np.pi / orientations):
        direction = np.array([np.cos(angle), np.sin(angle)])
        direction = np.round(direction / np.abs(direction).max(), 15)
        borders.append((float(direction[0]), float(direction[1])))
    return borders


def _normalise(cells: jax.Array) -> jax.Array:
    squared = jnp.sum(cells**2, axis=-1, keepdims=True)
    return cells / jnp.sqrt(squared + EPSILON**2)
