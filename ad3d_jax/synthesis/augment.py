"""DRAEM's ten random changes of a texture image.

Images are [H,W,3] float32 in [0,1]. What changes values by a table works on 256 levels,
as on 8-bit files. Definitions follow Pillow where Pillow has the operation.
"""

import jax
import jax.numpy as jnp

from ad3d_jax.ops.rotate import rotate
from ad3d_jax.synthesis.colour_spaces import COLOUR_SPACES

LEVELS = 256


def augment(key: jax.Array, image: jax.Array, operations: int = 3) -> jax.Array:
    """Returns the image after distinct random operations in random order.

    Args:
        key: typed key.
        image: [H,W,3] float32 in [0,1].
        operations: how many of the ten, 1 to 10.

    Under vmap every operation runs for every row; `augment_rows` avoids it on CPU.

    Source: DRAEM (arXiv 2108.07610); ranges of its loader and of imgaug 0.4.0, which it
    calls.
    """
    order_key, *keys = jax.random.split(key, operations + 1)
    order = jax.random.permutation(order_key, len(OPERATIONS))
    for index, operation_key in enumerate(keys):
        image = jax.lax.switch(order[index], OPERATIONS, operation_key, image)
    return image


def augment_rows(
    keys: jax.Array, images: jax.Array, wanted: jax.Array, operations: int = 3
) -> jax.Array:
    """Returns `augment` of the wanted rows; the others as they were.

    Args:
        keys: [B] typed keys.
        images: [B,H,W,3] float32 in [0,1].
        wanted: [B] bool.
        operations: as in `augment`.

    A CPU visits the rows one by one and computes only what each of them needs; other
    devices compute all rows at once.
    """

    def one(row):
        key, image, is_wanted = row
        return jax.lax.cond(
            is_wanted, lambda: augment(key, image, operations), lambda: image
        )

    rows = (keys, images, wanted)
    return jax.lax.platform_dependent(
        rows, cpu=lambda rows: jax.lax.map(one, rows), default=jax.vmap(one)
    )


def adjust_gamma(image: jax.Array, gamma: jax.Array) -> jax.Array:
    """Returns image ** gamma, gamma [3] > 0, one a channel."""
    # A power by itself is not vectorised on CPU.
    return jnp.exp(gamma[None, None, :] * jnp.log(jnp.maximum(image, 1e-6)))


def adjust_brightness(
    image: jax.Array, space: jax.Array, factor, shift, shift_first
) -> jax.Array:
    """Returns the image with another brightness and the chroma that its space keeps.

    Args:
        image: [H,W,3] float32 in [0,1].
        space: number of one of `COLOUR_SPACES`.
        factor: of the brightness, which is in [0,1] and clipped to it each time.
        shift: added to it.
        shift_first: bool, which of both comes first.
    """

    def change(x):
        shifted = factor * jnp.clip(x + shift, 0.0, 1.0)
        scaled = jnp.clip(factor * x, 0.0, 1.0) + shift
        return jnp.clip(jnp.where(shift_first, shifted, scaled), 0.0, 1.0)

    changed = jax.lax.switch(
        space, [lambda x, f=f: f(x, change) for f in COLOUR_SPACES], image
    )
    return jnp.clip(changed, 0.0, 1.0)


def sharpen(image: jax.Array, factor) -> jax.Array:
    """Returns the image (1), its smoothed version (0), or beyond either, by factor.

    Smoothing weighs a pixel 5/13 and its eight neighbours 1/13 each; the outermost
    pixels are left alone.
    """
    height, width, _ = image.shape
    rows = image[:-2] + image[1:-1] + image[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    inner = image[1 : height - 1, 1 : width - 1]
    smooth = image.at[1:-1, 1:-1].set((box + 4.0 * inner) / 13.0)
    return jnp.clip(smooth + factor * (image - smooth), 0.0, 1.0)


def shift_hue_saturation(image: jax.Array, hue, saturation) -> jax.Array:
    """Returns the image with hue turned by a part of the circle, saturation raised.

    Args:
        image: [H,W,3] float32 in [0,1].
        hue: part of the full circle, any real number.
        saturation: added to HSV's saturation, which then is clipped to [0,1].
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.max(image, axis=-1)
    chroma = value - jnp.min(image, axis=-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sector = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = jnp.where(chroma > 0, sector, 0.0) + 6.0 * hue
    old = chroma / jnp.maximum(value, 1e-6)
    new_chroma = value * jnp.clip(old + saturation, 0.0, 1.0)
    steps = sector[..., None] + jnp.array([5.0, 3.0, 1.0])[None, None]
    steps -= 6.0 * jnp.floor(steps / 6.0)  # a float modulo is not vectorised on CPU
    share = jnp.clip(jnp.minimum(steps, 4.0 - steps), 0.0, 1.0)
    return value[..., None] - new_chroma[..., None] * share


def solarise(image: jax.Array, threshold) -> jax.Array:
    """Returns the image with the levels (0..255) from the threshold on inverted."""
    levels = _levels(image).astype(jnp.float32)
    return jnp.where(levels >= threshold, 1.0 - image, image)


def posterise(image: jax.Array, bits) -> jax.Array:
    """Returns the image with the highest bits (1 to 8) of its 8 kept."""
    low = 8 - bits
    return ((_levels(image) >> low) << low).astype(jnp.float32) / (LEVELS - 1)


def invert(image: jax.Array) -> jax.Array:
    """Returns 1 - image."""
    return 1.0 - image


def auto_contrast(image: jax.Array, cutoff) -> jax.Array:
    """Returns each channel stretched to [0,1] after `cutoff` per cent at either end."""
    levels = _levels(image)
    counts = histogram(levels)
    percents = levels[..., 0].size * jnp.asarray(cutoff, jnp.float32)
    cut = jnp.floor(percents / 100.0).astype(jnp.int32)
    occupied = jnp.arange(LEVELS)
    below = jnp.cumsum(counts, axis=1)
    above = jnp.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    low = jnp.min(jnp.where(below > cut, occupied[None], LEVELS - 1), axis=1)
    high = jnp.max(jnp.where(above > cut, occupied[None], 0), axis=1)
    span = jnp.maximum(high - low, 1)[:, None]
    stretched = _whole_part((occupied[None] - low[:, None]) * (LEVELS - 1), span)
    stretched = jnp.clip(stretched, 0, LEVELS - 1)
    table = jnp.where((high > low)[:, None], stretched, occupied[None])
    return _look_up(table, levels)


def equalise(image: jax.Array) -> jax.Array:
    """Returns each channel with its histogram made as flat as a table can."""
    levels = _levels(image)
    counts = histogram(levels)
    highest = jnp.max(jnp.where(counts > 0, jnp.arange(LEVELS)[None], 0), axis=1)
    last = jnp.take_along_axis(counts, highest[:, None], axis=1)
    step = _whole_part(levels[..., 0].size - last, LEVELS - 1)
    before = jnp.cumsum(counts, axis=1) - counts
    table = _whole_part(before + (step >> 1), jnp.maximum(step, 1))
    table = jnp.where(step > 0, table, jnp.arange(LEVELS)[None])
    return _look_up(jnp.clip(table, 0, LEVELS - 1), levels)


def histogram(levels: jax.Array) -> jax.Array:
    """Returns how often each level occurs in each channel of [H,W,3], [3,256] int32."""
    bins = _bins(levels).reshape(-1)
    counts = jnp.zeros((levels.shape[-1] * LEVELS,), jnp.int32)
    counts = counts.at[bins].add(1, mode="promise_in_bounds")
    return counts.reshape(-1, LEVELS)


def _whole_part(a: jax.Array, b: jax.Array | int) -> jax.Array:
    """Returns floor(a / b), int32, of whole numbers -2^21 < a < 2^21 and b > 0.

    By a float division, as CPUs divide whole numbers slowly, and XLA does so for every
    pixel that a table is looked up for. The half keeps what is exact away from the
    rounding of accelerators.
    """
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    return jnp.floor((a + 0.5) / b).astype(jnp.int32)


def _levels(image: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(image * (LEVELS - 1)), 0, LEVELS - 1).astype(jnp.int32)


def _look_up(table: jax.Array, levels: jax.Array) -> jax.Array:
    """Returns [H,W,3] float32 in [0,1], levels replaced by a table [3,256]."""
    flat = (table.astype(jnp.float32) / (LEVELS - 1)).reshape(-1)
    return flat.at[_bins(levels)].get(mode="promise_in_bounds")


def _bins(levels: jax.Array) -> jax.Array:
    """Returns the position of each level in a flattened table [3,256]."""
    return levels + LEVELS * jnp.arange(levels.shape[-1])[None, None, :]


def _random_gamma(key, image):
    return adjust_gamma(image, jax.random.uniform(key, (3,), minval=0.5, maxval=2.0))


def _random_brightness(key, image):
    key, order_key, space_key = jax.random.split(key, 3)
    factor, shift = jax.random.uniform(key, (2,), minval=-1.0)
    shift_first = jax.random.bernoulli(order_key)
    space = jax.random.randint(space_key, (), 0, len(COLOUR_SPACES))
    factor, shift = 1.0 + 0.2 * factor, 30.0 / 255.0 * shift
    return adjust_brightness(image, space, factor, shift, shift_first)


def _random_sharpness(key, image):
    return sharpen(image, jax.random.uniform(key, (), maxval=2.0))


def _random_hue_saturation(key, image):
    hue, saturation = jax.random.uniform(key, (2,), minval=-50 / 255, maxval=50 / 255)
    return shift_hue_saturation(image, hue, saturation)


def _random_solarise(key, image):
    chance_key, threshold_key = jax.random.split(key)
    threshold = jax.random.uniform(threshold_key, (), minval=32.0, maxval=128.0)
    applied = jax.random.bernoulli(chance_key)
    return solarise(image, jnp.where(applied, threshold, float(LEVELS)))


def _random_posterise(key, image):
    return posterise(image, jax.random.randint(key, (), 1, 9))


def _invert(key, image):
    return invert(image)


def _random_auto_contrast(key, image):
    return auto_contrast(image, jax.random.randint(key, (), 0, 21))


def _equalise(key, image):
    return equalise(image)


def _random_rotation(key, image):
    return rotate(image, jax.random.uniform(key, (), minval=-45.0, maxval=45.0))


OPERATIONS = (
    _random_gamma,
    _random_brightness,
    _random_sharpness,
    _random_hue_saturation,
    _random_solarise,
    _random_posterise,
    _invert,
    _random_auto_contrast,
    _equalise,
    _random_rotation,
)
