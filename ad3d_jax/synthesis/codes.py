"""Anomalies of discrete features, other codes inside a mask: DSR, 3DSR."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import fold_each
from ad3d_jax.ops.order import at_rank
from ad3d_jax.ops.perlin import rotated_perlin_noise


class Swap(NamedTuple):
    """Chances and ranges of the maker; each may be a number or a 0-d array.

    The defaults are 3DSR's; DSR has the strengths U(0.2, 1), the threshold 0.5 and no
    shuffling.
    """

    p_normal: float = 0.5  # chance of an unchanged sample
    threshold_low: float = 0.4  # of the noise, drawn from here
    threshold_high: float = 0.8  # to here
    strength_low: float = 0.1  # share of the codebook that is near enough, from here
    strength_high: float = 1.0  # to here
    drop: float = 0.05  # share of the codebook that is too near
    p_shuffle: float = 0.5  # chance of shuffled patches in place of other codes
    p_both: float = 0.5  # chance that both levels are altered
    p_lower: float = 0.5  # chance of the lower level where only one is


DEFAULTS = Swap()


def swap(hyper: Mapping[str, jax.Array]) -> Swap:
    """Returns the chances and ranges that the numbers of a system say.

    Args:
        hyper: the names of `Swap`, chances as "probability_NAME", [] each.
    """
    return Swap(
        **{
            name: hyper[f"probability_{name[2:]}" if name.startswith("p_") else name]
            for name in Swap._fields
        }
    )


def noise_masks(
    keys: jax.Array,
    allowed: jax.Array,
    parameters: Swap = DEFAULTS,
    two_sided: bool = True,
) -> jax.Array:
    """Returns where samples are altered, [B,H,W,1] bool.

    Rotated Perlin noise over a random threshold, or with `two_sided` its magnitude;
    nowhere with the chance `p_normal`.

    Args:
        keys: [B] typed keys; a row depends on its own key alone.
        allowed: [B,H,W,1] bool, where it may be.
        parameters: chances and ranges.
        two_sided: whether low values count as high ones do.

    Source: 3DSR (arXiv 2311.01117), public code: |P| > t, t from U(0.4, 0.8), on the
    measured foreground; DSR (arXiv 2208.01521): P > 0.5 anywhere.
    """

    def draw(key):
        noise_key, threshold_key, case_key = jax.random.split(key, 3)
        noise = rotated_perlin_noise(noise_key, *allowed.shape[1:3])
        noise = jnp.abs(noise) if two_sided else noise
        low, high = parameters.threshold_low, parameters.threshold_high
        threshold = low + (high - low) * jax.random.uniform(threshold_key)
        anomalous = jax.random.uniform(case_key) >= parameters.p_normal
        return (noise > threshold) & anomalous

    return jax.vmap(draw)(keys)[..., None] & allowed


def draw_levels(
    keys: jax.Array, parameters: Swap = DEFAULTS
) -> tuple[jax.Array, jax.Array]:
    """Returns whether the lower and the higher level are altered, [B] bool each.

    Source: public code of DSR and 3DSR: both 0.5, either alone 0.25.
    """
    both, lower = jax.vmap(lambda key: jax.random.uniform(key, (2,)), out_axes=1)(keys)
    both, lower = both < parameters.p_both, lower < parameters.p_lower
    return both | lower, both | ~lower


def swap_codes(
    keys: jax.Array,
    codes: jax.Array,
    z: jax.Array,
    q: jax.Array,
    mask: jax.Array,
    parameters: Swap = DEFAULTS,
    sides: tuple[int, ...] = (1, 2, 4, 8),
) -> jax.Array:
    """Returns quantised features with others inside the mask, [B,h,w,D] float32.

    Either each cell gets a code that is similar to what it has, but not too similar:
    one of the nearest codes from `candidate_ranks`, all equally likely; or patches of
    the sample's own codes change places. Which of the two, and the strength, are drawn
    for each sample (public code: the former once for a batch, which would let a sample
    depend on its neighbours).

    Args:
        keys: [B] typed keys; a row depends on its own key alone.
        codes: codebook [K,D] float32.
        z: features before quantisation [B,h,w,D] float32.
        q: the codes nearest to them.
        mask: cells that are altered, [B,h,w,1] bool.
        parameters: chances and ranges.
        sides: of the patches, cells, all equally likely; each divides h and w. Empty =
            no patches.

    Source: 3DSR (arXiv 2311.01117), public code.
    """
    chance, position = jax.vmap(lambda key: jax.random.uniform(key, (2,)), out_axes=1)(
        fold_each(keys, 0)
    )
    low, high = parameters.strength_low, parameters.strength_high
    strength = low + (high - low) * position

    def row(inputs):  # one at a time: there are h w K distances to a sample
        return other_codes(*inputs, codes, parameters.drop)

    others = jax.lax.map(row, (fold_each(keys, 1), strength, z))
    if sides:
        shuffled = shuffle_patches(fold_each(keys, 2), q, sides)
        is_shuffled = chance < parameters.p_shuffle
        others = jnp.where(is_shuffled[:, None, None, None], shuffled, others)
    return jnp.where(mask, others, q)


def other_codes(
    key: jax.Array, strength: jax.Array, z: jax.Array, codes: jax.Array, drop
) -> jax.Array:
    """Returns a random one of the candidate codes for each cell, [h,w,D] float32.

    Args:
        key: typed key.
        strength: [] float32, see `candidate_ranks`.
        z: [h,w,D] float32.
        codes: [K,D] float32.
        drop: see `candidate_ranks`.
    """
    # The square of z itself is the same for all codes.
    products = jnp.einsum("hwd,kd->hwk", z, codes, precision=jax.lax.Precision.HIGHEST)
    distances = 0.5 * jnp.sum(codes**2, axis=1)[None, None, :] - products
    first, stop = candidate_ranks(len(codes), strength, drop)
    rank = jax.random.randint(key, z.shape[:2], first, stop)
    return codes[at_rank(distances, rank)]


def candidate_ranks(size: int, strength, drop) -> tuple[jax.Array, jax.Array]:
    """Returns (first, stop): the ranks by distance of what may replace a code, int32.

    The floor(strength K) + 1 nearest codes, within [1, K - 1], less the floor(drop K)
    nearest; the last of them where none is left.

    Args:
        size: K.
        strength: share of the codebook in [0,1], a number or an array.
        drop: share of the codebook in [0,1].
    """
    near = jnp.floor(jnp.asarray(strength, jnp.float32) * size).astype(jnp.int32) + 1
    stop = jnp.maximum(1, jnp.minimum(near, size - 1))
    first = jnp.floor(jnp.asarray(drop, jnp.float32) * size).astype(jnp.int32)
    return jnp.minimum(first, stop - 1), stop


def shuffle_patches(keys: jax.Array, q: jax.Array, sides: tuple[int, ...]) -> jax.Array:
    """Returns each map [B,h,w,D] with its patches in random order.

    Args:
        keys: [B] typed keys.
        q: [B,h,w,D].
        sides: of the patches, cells; one is drawn for each row.

    Raises:
        ValueError: a side does not divide h and w.
    """
    height, width = q.shape[1:3]
    if any(height % side or width % side for side in sides):
        raise ValueError(
            f"sides of patches: expected divisors of {height} and {width}, found "
            f"{sides}"
        )
    cells = jnp.arange(height * width, dtype=jnp.int32)

    def order(key, side):
        """Returns the cell that comes to each cell, [h w] int32."""
        shape = height // side, side, width // side, side
        patches = cells.reshape(shape).transpose(0, 2, 1, 3).reshape(-1, side, side)
        patches = jax.random.permutation(key, patches)
        shape = height // side, width // side, side, side
        return patches.reshape(shape).transpose(0, 2, 1, 3).reshape(-1)

    def shuffle(key, q):
        side_key, *order_keys = jax.random.split(key, 1 + len(sides))
        orders = [order(k, side) for k, side in zip(order_keys, sides, strict=True)]
        chosen = jax.random.randint(side_key, (), 0, len(sides))
        return q.reshape(height * width, -1)[jnp.stack(orders)[chosen]].reshape(q.shape)

    return jax.vmap(shuffle)(keys, q)


def pool_mask(mask: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns which cells hold a pixel of the mask, [B,h,w,1] bool.

    Args:
        mask: [B,H,W,1] bool.
        size: (h, w), divisors of H and W.
    """
    rows, height, width, _ = mask.shape
    cells = mask.reshape(rows, size[0], height // size[0], size[1], width // size[1])
    return jnp.any(cells, axis=(2, 4))[..., None]


def enlarge_cells(cells: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns [B,H,W,C], each cell of [B,h,w,C] repeated; `size` is (H, W)."""
    for axis, length in zip((1, 2), size, strict=True):
        cells = jnp.repeat(cells, length // cells.shape[axis], axis)
    return cells
