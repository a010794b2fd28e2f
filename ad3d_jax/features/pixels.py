"""Features of every pixel, made some rows at a time.

Those of all pixels of an image, 385 MB of CFM's, are never held at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array
from ad3d_jax.features.point_maps import point_rows
from ad3d_jax.ops.point_sets import Interpolation
from ad3d_jax.ops.resize import bilinear_weights

# (first row, number of rows) -> their features [B,rows,W,C] float32
Rows = Callable[[Array, int], Array]


def upsampled(maps: tuple[Array, ...], size: tuple[int, int]) -> Rows:
    """Returns the rows of maps that are enlarged bilinearly and laid side by side.

    Args:
        maps: [B,h_l,w_l,C_l] float32 each; half-pixel centres, as `resize_bilinear`.
        size: (H, W) of the pixels.
    """
    precision = jax.lax.Precision.HIGHEST

    def rows(first, count):
        parts = []
        for x in maps:
            down, across = (
                jnp.asarray(bilinear_weights(length, pixels))
                for length, pixels in zip(x.shape[1:3], size, strict=True)
            )
            down = jax.lax.dynamic_slice_in_dim(down, first, count)
            x = jnp.einsum("rh,bhwc->brwc", down, x, precision=precision)
            parts.append(jnp.einsum("xw,brwc->brxc", across, x, precision=precision))
        return jnp.concatenate(parts, axis=-1)

    return rows


def interpolated(
    tokens: Array, index: Array, weight: Array, size: tuple[int, int]
) -> Rows:
    """Returns the rows of point features that are brought back to their pixels.

    Args:
        tokens: [B,G,C] float32, of groups of points.
        index: [B,H*W,3] int32, the groups that a pixel's features come from.
        weight: [B,H*W,3] float32, 0 where no point is.
        size: (H, W) of the pixels, a square.

    See `point_maps.point_map`.
    """

    def rows(first, count):
        def sample(tokens, *back):
            way = Interpolation(*back)
            return point_rows(tokens, way, size, size[0], first, count)

        return jax.vmap(sample)(tokens, index, weight)

    return rows


def stored(x: Array) -> Rows:
    """Returns the rows of features of all pixels, [B,H,W,C], that are there already."""
    return lambda first, count: jax.lax.dynamic_slice_in_dim(x, first, count, axis=1)


def rows_at_a_time(height: int, most: int) -> int:
    """Returns the largest number of rows up to `most` that divides the height."""
    return max(count for count in range(1, most + 1) if height % count == 0)
