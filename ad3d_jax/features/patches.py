"""Patch features: how each system makes one grid of vectors from several maps.

All are linear and local, and written so that no map of unfolded 3x3 neighbourhoods is
ever made: it would hold nine times the numbers of the map.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array
from ad3d_jax.ops.blur import mean_filter
from ad3d_jax.ops.resize import resize_bilinear, resize_nearest


def patchcore_patches(maps: tuple[Array, ...], dimensions: int) -> Array:
    """Returns the patch features of the official PatchCore, [B,h,w,dimensions] float32.

    The definition: each position of a map becomes its 3x3 neighbourhood, flattened as
    (channel, row, column) with zeros outside the map; each of these 9C maps is resized
    bilinearly (half-pixel centres) to the first map's grid; the vector of 9C numbers is
    averaged adaptively to `dimensions`; the layers' vectors, one behind the other, are
    averaged adaptively to `dimensions` again.

    Averaging commutes with resizing, and an output is a weighted sum of few channels,
    each seen through a 3x3 kernel (for wide_resnet50 and 1024 one channel of layer2,
    two of layer3), which is how it is computed.

    Source: Roth et al., arXiv 2106.08265, amazon-science/patchcore-inspection; with
    dimensions = 1536 the embedding of SimpleNet.

    Args:
        maps: [B,h_l,w_l,C_l] float32 each.
        dimensions: length of a patch's vector, at least 1.

    Raises:
        ValueError: no map, or dimensions below 1.
    """
    _check(maps)
    if dimensions < 1:
        raise ValueError(f"dimensions: expected at least 1, found {dimensions}")
    total = 0.0
    for layer, x in enumerate(maps):
        # Output k averages entries k * L … k * L + L - 1 of all layers' vectors, so
        # that a layer reaches a range of the outputs; two ranges may share one.
        first = layer * dimensions // len(maps)
        channels, kernels = _pooled_kernels(x.shape[-1], dimensions, layer, len(maps))
        part = resize_bilinear(_few_channels(x, channels, kernels), _grid(maps))
        behind = dimensions - first - part.shape[-1]
        total += jnp.pad(part, ((0, 0), (0, 0), (0, 0), (first, behind)))
    return total


def concat_patches(maps: tuple[Array, ...]) -> Array:
    """Returns 3x3 means of all maps on the first map's grid, [B,h,w,sum C] float32.

    Means have the divisor 9 also at the border, where zeros count, and are resized
    bilinearly (half-pixel centres).

    Source: anomalib's PatchCore.

    Args:
        maps: [B,h_l,w_l,C_l] float32 each.

    Raises:
        ValueError: no map.
    """
    _check(maps)
    means = [resize_bilinear(mean_filter(x, 3), _grid(maps)) for x in maps]
    return jnp.concatenate(means, axis=-1)


def replicate_patches(maps: tuple[Array, ...]) -> Array:
    """Returns all maps, their cells repeated on the first one's grid, [B,h,w,sum C].

    Source: Defard et al., PaDiM, arXiv 2011.08785; the unfold-and-fold round trip of
    the public implementation is this replication.

    Args:
        maps: [B,h_l,w_l,C_l] float32 each.

    Raises:
        ValueError: no map.
    """
    _check(maps)
    return jnp.concatenate([resize_nearest(x, _grid(maps)) for x in maps], axis=-1)


def cell_pool(x: Array, cells: int = 28) -> Array:
    """Returns means over a grid of cells, [B,cells,cells,C] float32.

    3x3 means without padding (H-2 a side), then the adaptive average to cells x cells,
    whose bins overlap where `cells` does not divide H-2.

    Source: BTF, eliahuhorwitz/3D-ADS, and its descendants.

    Args:
        x: [B,H,W,C] float32, H and W at least 3.
        cells: of a side of the grid.

    Raises:
        ValueError: a side below 3.
    """
    if min(x.shape[1:3]) < 3:
        raise ValueError(f"cell_pool: expected sides of 3 or more, found {x.shape}")
    rows, columns = (cell_weights(side, cells) for side in x.shape[1:3])
    precision = jax.lax.Precision.HIGHEST
    x = jnp.einsum("ih,bhwc->biwc", rows, x, precision=precision)
    return jnp.einsum("jw,biwc->bijc", columns, x, precision=precision)


def adaptive_pool(x: Array, cells: int) -> Array:
    """Returns the adaptive average of x [B,H,W,C] over cells x cells, float32.

    Where `cells` is a multiple of H and W, each value is repeated.
    """
    rows, columns = (bin_weights(side, cells) for side in x.shape[1:3])
    precision = jax.lax.Precision.HIGHEST
    x = jnp.einsum("ih,bhwc->biwc", rows, x, precision=precision)
    return jnp.einsum("jw,biwc->bijc", columns, x, precision=precision)


def as_rows(grid: Array) -> Array:
    """Returns a grid of patches [B,h,w,D] as rows [B,h*w,D], line by line."""
    return grid.reshape(len(grid), -1, grid.shape[-1])


def adaptive_bins(length: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first entry of each bin and the one behind its last, [bins] int64.

    Bin i of the adaptive average covers floor(i n / m) … ceil((i + 1) n / m) - 1.
    """
    i = np.arange(bins)
    return i * length // bins, -(-(i + 1) * length // bins)


def bin_weights(length: int, bins: int) -> np.ndarray:
    """Returns [bins,length] float32: each bin's weights of a side's entries."""
    first, end = (edge[:, None] for edge in adaptive_bins(length, bins))
    entries = np.arange(length)[None]
    inside = (entries >= first) & (entries < end)
    return (inside / (end - first)).astype(np.float32)


def cell_weights(side: int, cells: int) -> np.ndarray:
    """Returns [cells,side] float32: each cell's weights of a side's pixels."""
    first, end = (edge[:, None] for edge in adaptive_bins(side - 2, cells))
    pixels = np.arange(side - 2)[None]
    bins = ((pixels >= first) & (pixels < end)) / (end - first)
    weights = sum(np.pad(bins, ((0, 0), (shift, 2 - shift))) for shift in range(3))
    return (weights / 3).astype(np.float32)


def _pooled_kernels(
    channels: int, dimensions: int, layer: int, layers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a layer's outputs are sums of: channels and their 3x3 kernels.

    Returns:
        [Q,D] int32 channels and [Q,3,3,D] float32 kernels: output d is the sum over q
        of channel [q,d] correlated with kernel [:,:,d] of q.
    """
    starts, ends = adaptive_bins(9 * channels, dimensions)
    outputs = np.arange(
        layer * dimensions // layers, -(-(layer + 1) * dimensions // layers)
    )
    # [D,L]: the bins of this layer that each output averages, and how much each counts.
    bins = outputs[:, None] * layers + np.arange(layers)[None] - layer * dimensions
    inside = (bins >= 0) & (bins < dimensions)
    bins = np.clip(bins, 0, dimensions - 1)
    starts, ends = starts[bins], ends[bins]
    share = inside / (layers * (ends - starts))
    first = np.where(inside, starts, 9 * channels).min(1) // 9
    last = (np.where(inside, ends, 0).max(1) - 1) // 9
    reach = int((last - first).max()) + 1
    entries = 9 * first[:, None] + np.arange(9 * reach)[None]  # [D,9Q]
    weights = sum(
        share[:, [n]]
        * ((entries >= starts[:, [n]]) & (entries < ends[:, [n]])).astype(float)
        for n in range(layers)
    )
    chosen = np.minimum(first[None] + np.arange(reach)[:, None], channels - 1)
    kernels = weights.reshape(-1, reach, 3, 3).transpose(1, 2, 3, 0)
    return chosen.astype(np.int32), kernels.astype(np.float32)


def _few_channels(x: Array, channels: np.ndarray, kernels: np.ndarray) -> Array:
    """Returns [B,h,w,D]: sums over q of chosen channels seen through 3x3 kernels."""
    height, width = x.shape[1:3]
    border = ((0, 0), (1, 1), (1, 1), (0, 0))

    def add(total, part):
        chosen, kernel = part
        picked = jnp.pad(jnp.take(x, chosen, axis=-1), border)
        # Else the compiler may gather anew for each of the nine windows.
        picked = jax.lax.optimization_barrier(picked)
        for row in range(3):
            for column in range(3):
                window = picked[:, row : row + height, column : column + width]
                total += window * kernel[row, column].reshape(1, 1, 1, -1)
        return total, None

    zero = jnp.zeros((*x.shape[:3], channels.shape[1]), x.dtype)
    return jax.lax.scan(add, zero, (channels, kernels), unroll=min(4, len(channels)))[0]


def _grid(maps: tuple[Array, ...]) -> tuple[int, int]:
    return maps[0].shape[1:3]


def _check(maps: tuple[Array, ...]) -> None:
    if not maps:
        raise ValueError("maps: expected at least one layer, found none")
