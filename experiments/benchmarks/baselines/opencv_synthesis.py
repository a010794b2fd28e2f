"""DRAEM's maker of anomalies in NumPy, OpenCV and Pillow, one image after another.

Written from the paper's facts (arXiv 2108.07610) for timing alone. As the authors' own
it prepares an anomaly for each image and throws every second one away, and works in
float64 where NumPy does.
"""

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

LEVELS = np.arange(256, dtype=np.float32)
HIGHEST_EXPONENT = 5


def corrupt(
    rng: np.random.Generator, image: np.ndarray, texture: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image with or without an anomaly, and its mask [H,W,1], float32.

    Args:
        rng: what is drawn from.
        image: [H,W,3] float32 in [0,1].
        texture: [H,W,3] uint8, of the same size.
    """
    texture = augment(rng, texture)
    noise = rotate(perlin(rng, *image.shape[:2]), rng.uniform(-90, 90))
    mask = np.where(noise > 0.5, 1.0, 0.0)[..., None]
    anomaly = texture.astype(np.float32) * mask / 255.0
    beta = rng.uniform(0, 0.8)
    altered = image * (1 - mask) + (1 - beta) * anomaly + beta * image * mask
    if rng.random() > 0.5:
        return image, np.zeros_like(mask, np.float32)
    return altered.astype(np.float32), mask.astype(np.float32)


def perlin(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns gradient noise of a random frequency along each axis, [H,W]."""
    rows, columns = 2 ** rng.integers(0, HIGHEST_EXPONENT + 1, 2)
    angles = 2 * np.pi * rng.random((rows + 1, columns + 1))
    gradients = np.stack((np.cos(angles), np.sin(angles)), axis=-1)
    y = np.arange(height) * rows / height
    x = np.arange(width) * columns / width
    offset = np.stack(np.meshgrid(y % 1, x % 1, indexing="ij"), axis=-1)
    cells = height // rows, width // columns

    def corner(down: int, right: int) -> np.ndarray:
        at = gradients[down : down + rows, right : right + columns]
        spread = at.repeat(cells[0], axis=0).repeat(cells[1], axis=1)
        parts = (offset - (down, right)) * spread
        return parts[..., 0] + parts[..., 1]  # quicker than a sum over two

    fade = offset**3 * (offset * (offset * 6 - 15) + 10)
    top = corner(0, 0) + fade[..., 1] * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade[..., 1] * (corner(1, 1) - corner(1, 0))
    return np.sqrt(2) * (top + fade[..., 0] * (bottom - top))


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Returns the image turned about its centre, bilinear, zeros coming in."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR)


def augment(rng: np.random.Generator, texture: np.ndarray) -> np.ndarray:
    """Returns a uint8 texture after three distinct ones of the ten changes."""
    for number in rng.choice(len(CHANGES), 3, replace=False):
        texture = CHANGES[number](rng, texture)
    return texture


def table(values: np.ndarray) -> np.ndarray:
    """Returns a table of 256 levels, uint8, from floats."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def gamma(rng, image):
    """Returns the image with a gamma a channel."""
    powers = rng.uniform(0.5, 2.0, 3)
    curves = table(255 * (LEVELS[:, None] / 255) ** powers)
    return cv2.LUT(image, curves[:, None])


def brightness(rng, image):
    """Returns the image brighter or darker."""
    return cv2.LUT(image, table(LEVELS * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30)))


def sharpness(rng, image):
    """Returns the image sharper or smoother."""
    enhancer = ImageEnhance.Sharpness(Image.fromarray(image))
    return np.asarray(enhancer.enhance(rng.uniform(0, 3)))


def hue_saturation(rng, image):
    """Returns the image with hue and saturation moved."""
    hue, saturation = rng.uniform(-50, 50, 2)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    curves = np.stack(
        (
            ((LEVELS + round(hue)) % 256).astype(np.uint8),
            table(LEVELS + saturation),
            LEVELS.astype(np.uint8),
        ),
        axis=-1,
    )
    return cv2.cvtColor(cv2.LUT(hsv, curves[:, None]), cv2.COLOR_HSV2RGB_FULL)


def solarise(rng, image):
    """Returns the image with its bright levels inverted, every second time."""
    if rng.random() < 0.5:
        return image
    return cv2.LUT(
        image, table(np.where(LEVELS < rng.uniform(32, 128), LEVELS, 255 - LEVELS))
    )


def posterise(rng, image):
    """Returns the image with some of its highest bits."""
    return image & np.uint8(256 - 2 ** (8 - rng.integers(1, 9)))


def invert(rng, image):
    """Returns the negative."""
    return 255 - image


def auto_contrast(rng, image):
    """Returns the image stretched to all levels."""
    return np.asarray(ImageOps.autocontrast(Image.fromarray(image), rng.integers(21)))


def equalise(rng, image):
    """Returns the image with even histograms."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def turned(rng, image):
    """Returns the image turned."""
    return rotate(image, rng.uniform(-45, 45))


CHANGES = (
    *(gamma, brightness, sharpness, hue_saturation, solarise, posterise, invert),
    *(auto_contrast, equalise, turned),
)
