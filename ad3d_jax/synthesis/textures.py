"""Anomaly textures: the library's own, and those of a folder of images."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.ops.perlin import MAX_EXPONENT, perlin_noise

OCTAVES = MAX_EXPONENT + 1
LATTICE = 64
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # by content, whatever the suffix
MODES = ("RGB", "L", "LA", "RGBA", "RGBX", "P", "PA", "1", "CMYK", "YCbCr")


def procedural_textures(key: jax.Array, count: int, size: int) -> jax.Array:
    """Returns random textures of eight families, [count,size,size,3] uint8.

    Clouds, marble, stripes, tiles, cells, cracks, spots and weave, warped by noise,
    coloured from random palettes, muted more often than vivid, with shading and grain.
    Texture i depends on the key, i and the size alone.

    Args:
        key: typed key.
        count: number of textures.
        size: side of each, pixels.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    return jax.lax.map(lambda key: _texture(key, size), keys)


def single_colours(key: jax.Array, count: int, size: int) -> jax.Array:
    """Returns random colours as textures of one pixel, whatever `size`: [T,1,1,3]."""
    return jax.random.randint(key, (count, 1, 1, 3), 0, 256).astype(jnp.uint8)


def load_textures(
    folder: str | Path, size: int, limit: int | None = None, seed: int = 0
) -> np.ndarray:
    """Returns the images below a folder as [T,size,size,3] uint8, in order of path.

    Args:
        folder: searched with its subfolders for jpg, png, bmp and webp files.
        size: side that every image is resized to, bilinear.
        limit: at most so many, a random choice by `seed`; None takes all.
        seed: of that choice.

    Raises:
        ValueError: see `find_images` and `read_image`.
    """
    from tqdm import tqdm

    files = find_images(folder)
    if limit is not None and limit < len(files):
        chosen = np.random.default_rng(seed).choice(len(files), limit, replace=False)
        files = [files[i] for i in sorted(chosen)]
    textures = np.empty((len(files), size, size, 3), np.uint8)
    for index, file in enumerate(tqdm(files, "textures", delay=2.0)):
        textures[index] = read_image(file, size)
    return textures


def find_images(folder: str | Path) -> list[Path]:
    """Returns the jpg, png, bmp and webp files below a folder, in order of path.

    Raises:
        ValueError: no such folder, or no image in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"textures: expected a folder, found {str(root)!r}")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"textures: no image {SUFFIXES} below {str(root)!r}")
    return files


def read_image(file: str | Path, size: int) -> np.ndarray:
    """Returns an image as [size,size,3] uint8, bilinear.

    Raises:
        ValueError: it cannot be read, see `image_files.open_image`.
    """
    from PIL import Image

    from ad3d_jax.image_files import ImageFileError, open_image

    try:
        image = open_image(file, MODES, FORMATS, least=1).convert("RGB")
    except ImageFileError as error:
        raise ValueError(f"textures: cannot read {error}") from error
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


class Ground(NamedTuple):
    """What a family of textures is made from."""

    draws: jax.Array  # [4] float32, uniform in (0,1)
    y: jax.Array  # [H,W] float32, turned and warped coordinates; the image's side is 1
    x: jax.Array  # [H,W] float32
    clouds: jax.Array  # [H,W] float32, noise of all octaves, about (-1,1)
    lattice: jax.Array  # [3,64,64] float32, uniform in (0,1)


def _texture(key: jax.Array, size: int) -> jax.Array:
    """Returns one texture, [size,size,3] uint8.

    All random numbers are drawn here: each call site of the generator costs far more to
    compile than the numbers cost to draw.
    """
    draw_key, cloud_key, lattice_key, grain_key = jax.random.split(key, 4)
    draws = jax.random.uniform(draw_key, (32,))
    warp_y, warp_x, clouds, shade = _clouds(cloud_key, draws[:4], size)
    y, x = _coordinates(draws[4:8], jnp.stack([warp_y, warp_x]))
    lattice = jax.random.uniform(lattice_key, (3, LATTICE, LATTICE))
    ground = Ground(draws[8:12], y, x, clouds, lattice)
    family = jnp.floor(draws[12] * len(FAMILIES)).astype(jnp.int32)
    colours = _colour(draws[16:32], jax.lax.switch(family, FAMILIES, ground))
    noise = 0.1 * draws[13] ** 4 * jax.random.normal(grain_key, (size, size))
    colours = colours * (1.0 + 0.5 * draws[14] * shade)[..., None] + noise[..., None]
    return jnp.round(255.0 * jnp.clip(colours, 0.0, 1.0)).astype(jnp.uint8)


def _clouds(key: jax.Array, draws: jax.Array, size: int) -> jax.Array:
    """Returns four fields of noise of all octaves, [4,size,size], about (-1,1)."""

    def octave(key, exponent):
        return perlin_noise(key, size, size, (exponent, exponent))

    keys = jax.random.split(key, (4, OCTAVES))
    exponents = jnp.arange(OCTAVES)
    octaves = jax.vmap(jax.vmap(octave), (0, None))(keys, exponents)
    roughness = 0.3 + 0.6 * draws[:, None]
    weights = roughness ** exponents.astype(jnp.float32)[None]
    weights = 2.0 * weights / jnp.sum(weights, axis=1, keepdims=True)
    return jnp.einsum("fo,fohw->fhw", weights, octaves)


def _coordinates(draws: jax.Array, warp: jax.Array) -> jax.Array:
    """Returns turned, shifted and warped coordinates, [2,H,W]."""
    size = warp.shape[1]
    ramp = jnp.arange(size, dtype=jnp.float32) / size
    y, x = jnp.meshgrid(ramp, ramp, indexing="ij")
    cos, sin = jnp.cos(2 * jnp.pi * draws[0]), jnp.sin(2 * jnp.pi * draws[0])
    turned = jnp.stack([cos * y + sin * x, cos * x - sin * y])
    return turned + 8.0 * draws[1:3, None, None] + 0.2 * draws[3] ** 3 * warp


def _colour(draws: jax.Array, field: jax.Array) -> jax.Array:
    """Returns the field, stretched, along a palette of four colours, [H,W,3]."""
    brightness, tints = draws[:4, None], draws[4:16].reshape(4, 3) - 0.5
    vividness = draws[15] ** 2
    common = tints[:1]
    palette = brightness + (0.3 * common + vividness * tints)
    low, high = jnp.min(field), jnp.max(field)
    position = 3.0 * (field - low) / jnp.maximum(high - low, 1e-6)
    stops = jnp.arange(4.0)[None, None]
    # Hat functions around 0, 1, 2, 3 interpolate linearly between the colours.
    weights = jnp.maximum(1.0 - jnp.abs(position[..., None] - stops), 0.0)
    return weights @ jnp.clip(palette, 0.0, 1.0)


def _between(draw: jax.Array, low: float, high: float) -> jax.Array:
    """Returns a log-uniform number between low and high."""
    return low * (high / low) ** draw


def _cloud_field(ground: Ground) -> jax.Array:
    return ground.clouds


def _marble(ground: Ground) -> jax.Array:
    frequency = _between(ground.draws[0], 1.0, 8.0)
    phase = 2 * jnp.pi * frequency * ground.y
    return jnp.abs(jnp.sin(phase + (1.0 + 6.0 * ground.draws[1]) * ground.clouds))


def _stripes(ground: Ground) -> jax.Array:
    fine = jnp.sin(2 * jnp.pi * _between(ground.draws[0], 2.0, 40.0) * ground.y)
    coarse = jnp.sin(2 * jnp.pi * _between(ground.draws[1], 1.0, 12.0) * ground.y)
    sharpness = _between(ground.draws[2], 0.5, 20.0)
    return jnp.tanh(sharpness * (fine + ground.draws[3] * coarse))


def _tiles(ground: Ground) -> jax.Array:
    """Tiles of random tone in shifted rows, with joints."""
    frequency = _between(ground.draws[0], 3.0, 24.0)
    y = frequency * ground.y
    row = jnp.floor(y)
    aspect = _between(ground.draws[1], 0.4, 1.0)
    x = frequency * aspect * ground.x + ground.draws[2] * row
    tone = _look_up(ground.lattice[0], row, jnp.floor(x))
    edge = jnp.minimum(jnp.minimum(y % 1, 1 - y % 1), jnp.minimum(x % 1, 1 - x % 1))
    return jnp.where(edge < 0.12 * ground.draws[3], -0.5, tone)


def _cells(ground: Ground) -> jax.Array:
    first, _, tone = _nearest_two(ground)
    return tone + (2.0 * ground.draws[1] - 1.0) * first


def _cracks(ground: Ground) -> jax.Array:
    first, second, tone = _nearest_two(ground)
    width = 0.03 + 0.5 * ground.draws[1]
    return jnp.minimum((second - first) / width, 1.0) + 0.5 * ground.draws[2] * tone


def _spots(ground: Ground) -> jax.Array:
    first, _, tone = _nearest_two(ground)
    radius = (0.15 + 0.35 * ground.draws[1]) * (0.5 + tone)
    spot = jax.nn.sigmoid(20.0 * (radius - first))
    return spot * (1.0 - ground.draws[2] * tone)


def _weave(ground: Ground) -> jax.Array:
    """Threads that pass over and under each other."""
    frequency = _between(ground.draws[0], 4.0, 28.0)
    y, x = frequency * ground.y, frequency * ground.x
    over = (jnp.floor(y) + jnp.floor(x)) % 2 > 0.5
    depth = 0.2 + 0.8 * ground.draws[1]
    along_y, along_x = jnp.abs(jnp.sin(jnp.pi * y)), jnp.abs(jnp.sin(jnp.pi * x))
    return jnp.where(over, along_y, along_x - depth)


def _nearest_two(ground: Ground):
    """Returns distances to the nearest two of scattered points, and a tone a point.

    One point lies in each cell of a lattice, so the nearest are looked for in 3 x 3.
    """
    frequency = _between(ground.draws[0], 3.0, 30.0)
    y, x = frequency * ground.y, frequency * ground.x
    steps = jnp.arange(9)
    step_y, step_x = ((s - 1).astype(jnp.float32) for s in (steps // 3, steps % 3))
    cell_y = jnp.floor(y)[None] + step_y[:, None, None]
    cell_x = jnp.floor(x)[None] + step_x[:, None, None]
    tones, ahead_y, ahead_x = (_look_up(t, cell_y, cell_x) for t in ground.lattice)
    distances = jnp.hypot(cell_y + ahead_y - y[None], cell_x + ahead_x - x[None])
    first = jnp.min(distances, axis=0)
    is_first = distances == first[None]
    second = jnp.min(jnp.where(is_first, jnp.inf, distances), axis=0)
    return first, second, jnp.max(jnp.where(is_first, tones, 0.0), axis=0)


def _look_up(table: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    """Returns entries of a table [64,64] that repeats endlessly."""
    row, column = row.astype(jnp.int32), column.astype(jnp.int32)
    index = LATTICE * (row % LATTICE) + column % LATTICE
    return table.reshape(-1).at[index].get(mode="promise_in_bounds")


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
