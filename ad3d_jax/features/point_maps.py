"""Features of point groups on the image's grid: M3DM's and CFM's way back to pixels.

A point's features are a weighted sum of three tokens. Placed at the points' pixels on a
canvas of zeros they go through 3x3 means without padding, then through the adaptive
average to a grid of cells (56x56 in M3DM, the image's own 224x224 in CFM). A sample's
canvas would hold 230 MB; here only the rows are made that a few rows of cells need.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array
from ad3d_jax.features.patches import cell_weights
from ad3d_jax.ops.point_sets import Interpolation

CELL_ROWS = 4  # of the grid, that are made at a time


def point_map(
    tokens: Array, interpolation: Interpolation, size: tuple[int, int], cells: int
) -> jax.Array:
    """Returns the features of all cells, [cells,cells,C] float32, of one sample.

    Args:
        tokens: [G,C] float32.
        interpolation: of all H*W pixels, line by line; weights 0 where no point is.
        size: H and W, each at least 3.
        cells: of a side of the grid.

    A cell that no point reaches is exactly 0; one at an object's border is mixed with
    zeros.

    Raises:
        ValueError: the interpolation is not one of H*W pixels, or a side is below 3.
    """
    rows = min(CELL_ROWS, cells)
    starts = np.minimum(np.arange(0, cells, rows), cells - rows)
    strips = jax.lax.map(
        lambda first: point_rows(tokens, interpolation, size, cells, first, rows),
        jnp.asarray(starts, jnp.int32),
    )
    whole = strips[:-1].reshape(-1, *strips.shape[2:])
    # The last strip begins early where the rows do not divide the grid.
    return jnp.concatenate([whole[: starts[-1]], strips[-1]])


def point_rows(
    tokens: Array,
    interpolation: Interpolation,
    size: tuple[int, int],
    cells: int,
    first: Array,
    rows: int,
) -> jax.Array:
    """Returns some successive rows of `point_map`, [rows,cells,C] float32.

    Args:
        tokens, interpolation, size, cells: as for `point_map`.
        first: [] int32, number of the first row, at most cells - rows.
        rows: how many.

    Raises:
        ValueError: as `point_map`.
    """
    height, width = size
    if len(interpolation.index) != height * width or min(size) < 3:
        raise ValueError(
            f"interpolation: expected that of {height} x {width} pixels, sides of 3 or "
            f"more, found that of {len(interpolation.index)}"
        )
    tops, row_weights = _bands(height, cells)
    lefts, column_weights = _bands(width, cells)
    reach = row_weights.shape[1]
    spans = tops[rows - 1 :] - tops[: cells - rows + 1] + reach
    span = min(int(spans.max()), height)
    here = jax.lax.dynamic_slice_in_dim(jnp.asarray(tops), first, rows)
    top = jnp.minimum(here[0], height - span)

    def strip(x):
        x = x.reshape(height, width, -1)
        return jax.lax.dynamic_slice_in_dim(x, top, span)

    index, weight = map(strip, interpolation)
    features = sum(
        weight[..., n, None] * tokens[index[..., n]] for n in range(index.shape[-1])
    )
    weights = jax.lax.dynamic_slice_in_dim(jnp.asarray(row_weights), first, rows)
    lines = sum(
        weights[:, n, None, None] * features[here - top + n] for n in range(reach)
    )
    return sum(
        column_weights[None, :, n, None] * lines[:, lefts + n]
        for n in range(column_weights.shape[1])
    )


def _bands(side: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each cell's first pixel [cells] int32 and its weights [cells,K] float32.

    K successive pixels hold all that a cell averages.
    """
    weights = cell_weights(side, cells)
    first = (weights > 0).argmax(1)
    reach = int((weights > 0).sum(1).max())
    first = np.minimum(first, side - reach)
    pixels = first[:, None] + np.arange(reach)[None]
    return first.astype(np.int32), np.take_along_axis(weights, pixels, axis=1)
