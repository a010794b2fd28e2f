"""Anomaly textures: the library's own, and those of a folder of pictures."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.ops.perlin import MAX_EXPONENT, perlin_noise

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def procedural_textures(key: jax.Array, count: int, size: int) -> jax.Array:
    """Returns random textures of eight families, [count,size,size,3] uint8.

    Clouds, marble, stripes, tiles, cells, cracks, spots and weave, warped by noise,
    coloured from random palettes, with shading and grain. Texture i depends on the key,
    i and the size alone.

    Args:
        key: typed key.
        count: number of textures.
        size: side of each, pixels.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    return jax.lax.map(lambda key: _texture(key, size), keys)


def load_textures(
    folder: str | Path, size: int, limit: int | None = None, seed: int = 0
) -> np.ndarray:
    """Returns the pictures below a folder as [T,size,size,3] uint8, in order of path.

    Args:
        folder: searched with its subfolders for jpg, png, bmp and webp files.
        size: side that every picture is resized to, bilinear.
        limit: at most so many, a random choice by `seed`; None takes all.
        seed: of that choice.

    Raises:
        ValueError: no such folder, no picture in it, or a file that cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"textures: expected a folder, found {str(root)!r}")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"textures: no picture {SUFFIXES} below {str(root)!r}")
    if limit is not None and limit < len(files):
        chosen = np.random.default_rng(seed).choice(len(files), limit, replace=False)
        files = [files[i] for i in sorted(chosen)]
    textures = np.empty((len(files), size, size, 3), np.uint8)
    for index, file in enumerate(files):
        try:
            with Image.open(file) as picture:
                picture = picture.convert("RGB")
            resized = picture.resize((size, size), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"textures: cannot read {str(file)!r}: {error}") from error
        textures[index] = np.asarray(resized)
    return textures


def _texture(key: jax.Array, size: int) -> jax.Array:
    keys = jax.random.split(key, 6)
    family = jax.random.randint(keys[0], (), 0, len(FAMILIES))
    field = jax.lax.switch(family, FAMILIES, keys[1], _coordinates(keys[2], size))
    colours = _colour(keys[3], field)
    shade_key, grain_key, amount_key = jax.random.split(keys[4], 3)
    shading, grain = jax.random.uniform(amount_key, (2,))
    shade = 1.0 + 0.5 * shading * _clouds(shade_key, size)
    noise = jax.random.normal(grain_key, (size, size))
    colours = colours * shade[..., None] + 0.12 * grain**2 * noise[..., None]
    return jnp.round(255.0 * jnp.clip(colours, 0.0, 1.0)).astype(jnp.uint8)


def _coordinates(key: jax.Array, size: int) -> jax.Array:
    """Returns turned, shifted and warped coordinates, [2,size,size], image side 1."""
    turn_key, shift_key, amount_key, *warp_keys = jax.random.split(key, 5)
    angle = jax.random.uniform(turn_key, (), maxval=2 * jnp.pi)
    ramp = jnp.arange(size, dtype=jnp.float32) / size
    y, x = jnp.meshgrid(ramp, ramp, indexing="ij")
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned = jnp.stack([cos * y + sin * x, cos * x - sin * y])
    shift = jax.random.uniform(shift_key, (2, 1, 1), maxval=8.0)
    warp = jnp.stack([perlin_noise(k, size, size, (1, 3)) for k in warp_keys])
    amount = jax.random.uniform(amount_key) ** 3
    return turned + shift + 0.15 * amount * warp


def _clouds(key: jax.Array, size: int) -> jax.Array:
    """Returns noise of all octaves, [size,size], roughly in (-1,1)."""
    roughness_key, *octave_keys = jax.random.split(key, MAX_EXPONENT + 2)
    roughness = jax.random.uniform(roughness_key, (), minval=0.3, maxval=0.95)
    octaves = [
        roughness**i * perlin_noise(k, size, size, (i, i))
        for i, k in enumerate(octave_keys)
    ]
    weights = sum(roughness**i for i in range(len(octaves)))
    return 2.0 * sum(octaves) / weights


def _colour(key: jax.Array, field: jax.Array) -> jax.Array:
    """Returns the field, stretched, along a palette of four colours, [H,W,3]."""
    base_key, spread_key, anchors_key, bend_key = jax.random.split(key, 4)
    base = jax.random.uniform(base_key, (3,))
    spread = jax.random.uniform(spread_key, (), minval=0.3, maxval=1.0)
    anchors = jax.random.uniform(anchors_key, (4, 3))
    palette = base[None] + spread * (anchors - base[None])
    low, high = jnp.min(field), jnp.max(field)
    position = (field - low) / jnp.maximum(high - low, 1e-6)
    position = position ** jnp.exp(0.5 * jax.random.normal(bend_key))
    stops = jnp.linspace(0.0, 1.0, 4)
    channels = [jnp.interp(position, stops, palette[:, c]) for c in range(3)]
    return jnp.stack(channels, axis=-1)


def _frequency(key: jax.Array, low: float, high: float) -> jax.Array:
    """Returns a log-uniform number between low and high."""
    return low * (high / low) ** jax.random.uniform(key)


def _cloud_field(key, coordinates):
    return _clouds(key, coordinates.shape[1])


def _marble(key, coordinates):
    cloud_key, frequency_key, amount_key = jax.random.split(key, 3)
    amount = jax.random.uniform(amount_key, (), minval=1.0, maxval=8.0)
    phase = 2 * jnp.pi * _frequency(frequency_key, 1.0, 8.0) * coordinates[0]
    return jnp.abs(jnp.sin(phase + amount * _clouds(cloud_key, coordinates.shape[1])))


def _stripes(key, coordinates):
    frequency_key, sharpness_key, second_key, share_key = jax.random.split(key, 4)
    first = jnp.sin(2 * jnp.pi * _frequency(frequency_key, 2.0, 40.0) * coordinates[0])
    second = jnp.sin(2 * jnp.pi * _frequency(second_key, 1.0, 12.0) * coordinates[0])
    sharpness = _frequency(sharpness_key, 0.5, 20.0)
    return jnp.tanh(sharpness * (first + jax.random.uniform(share_key) * second))


def _tiles(key, coordinates):
    """Tiles of random tone in shifted rows, with joints."""
    frequency_key, aspect_key, tone_key, joint_key, shift_key = jax.random.split(key, 5)
    frequency = _frequency(frequency_key, 3.0, 24.0)
    aspect = jnp.stack([frequency, frequency * _frequency(aspect_key, 0.4, 1.0)])
    y, x = aspect[:, None, None] * coordinates
    row = jnp.floor(y)
    x = x + jax.random.uniform(shift_key) * row
    tones = jax.random.uniform(tone_key, (64, 64))
    tone = tones[row.astype(jnp.int32) % 64, jnp.floor(x).astype(jnp.int32) % 64]
    edge = jnp.minimum(jnp.minimum(y % 1, 1 - y % 1), jnp.minimum(x % 1, 1 - x % 1))
    joint = jax.random.uniform(joint_key, (), maxval=0.12)
    return jnp.where(edge < joint, -0.5, tone)


def _nearest_two(key, coordinates):
    """Returns distances to the nearest two of random points, and a tone a cell.

    One point lies in each cell of a lattice, so the nearest ones are in 3 x 3 cells.
    """
    frequency_key, point_key, tone_key = jax.random.split(key, 3)
    position = _frequency(frequency_key, 3.0, 30.0) * coordinates
    cell = jnp.floor(position).astype(jnp.int32)
    points = jax.random.uniform(point_key, (64, 64, 2))
    tones = jax.random.uniform(tone_key, (64, 64))
    first = jnp.full(cell.shape[1:], jnp.inf)
    second, tone = first, jnp.zeros_like(first)
    for step in np.ndindex(3, 3):
        y, x = cell[0] + step[0] - 1, cell[1] + step[1] - 1
        point = points[y % 64, x % 64]
        distance = jnp.hypot(
            position[0] - y - point[..., 0], position[1] - x - point[..., 1]
        )
        tone = jnp.where(distance < first, tones[y % 64, x % 64], tone)
        second = jnp.minimum(second, jnp.maximum(first, distance))
        first = jnp.minimum(first, distance)
    return first, second, tone


def _cells(key, coordinates):
    share_key, key = jax.random.split(key)
    first, _, tone = _nearest_two(key, coordinates)
    return tone + jax.random.uniform(share_key, (), minval=-1.0) * first


def _cracks(key, coordinates):
    width_key, share_key, key = jax.random.split(key, 3)
    first, second, tone = _nearest_two(key, coordinates)
    width = jax.random.uniform(width_key, (), minval=0.03, maxval=0.5)
    edge = jnp.minimum((second - first) / width, 1.0)
    return edge + 0.5 * jax.random.uniform(share_key) * tone


def _spots(key, coordinates):
    radius_key, share_key, key = jax.random.split(key, 3)
    first, _, tone = _nearest_two(key, coordinates)
    radius = jax.random.uniform(radius_key, (), minval=0.15, maxval=0.5)
    spot = jax.nn.sigmoid(20.0 * (radius * (0.5 + tone) - first))
    return spot * (1.0 - jax.random.uniform(share_key) * tone)


def _weave(key, coordinates):
    """Threads that pass over and under each other."""
    frequency_key, depth_key = jax.random.split(key)
    y, x = _frequency(frequency_key, 4.0, 28.0) * coordinates
    over = (jnp.floor(y) + jnp.floor(x)) % 2
    along = jnp.abs(jnp.sin(jnp.pi * y)), jnp.abs(jnp.sin(jnp.pi * x))
    depth = jax.random.uniform(depth_key, (), minval=0.2, maxval=1.0)
    return jnp.where(over > 0.5, along[0], along[1] - depth)


FAMILIES = (
    _cloud_field,
    _marble,
    _stripes,
    _tiles,
    _cells,
    _cracks,
    _spots,
    _weave,
)
