"""Resizing and cropping images and maps with one fixed rule each."""

import numpy as np
from PIL import Image

INTERPOLATIONS = ("area", "bilinear", "bicubic", "lanczos")  # of images


def nearest_rows(size_in: int, size_out: int) -> np.ndarray:
    """Returns the source index of each output index, floor(i * size_in / size_out)."""
    return np.arange(size_out) * size_in // size_out


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes [H,W,...] to `size` (rows, columns) by picking samples, any dtype."""
    height, width = size
    if array.shape[:2] == size:
        return array
    rows = nearest_rows(array.shape[0], height)
    columns = nearest_rows(array.shape[1], width)
    return array[rows][:, columns]


def resized_size(
    source: tuple[int, int], target: tuple[int, int], shorter_side: int | None
) -> tuple[int, int]:
    """Returns the size (rows, columns) that is resized to before a centre crop.

    Args:
        source: size of the image.
        target: size after the crop.
        shorter_side: what the shorter side becomes, the longer one in proportion and
            rounded down (torchvision's rule); None takes `target`, without a crop.
    """
    if shorter_side is None:
        return target
    height, width = source
    short = min(source)
    return shorter_side * height // short, shorter_side * width // short


def centre_crop(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the middle of [H,W,...], `size` (rows, columns) of it, at most all.

    Half pixels are rounded to the even number, as torchvision does.
    """
    top, left = (
        round((have - want) / 2)
        for have, want in zip(array.shape[:2], size, strict=True)
    )
    return array[top : top + size[0], left : left + size[1]]


def resize_image(
    image: np.ndarray, size: tuple[int, int], interpolation: str = "area"
) -> np.ndarray:
    """Resizes a uint8 image [H,W,C] to `size` (rows, columns).

    `area` averages each axis that shrinks over the area of each output pixel and
    interpolates each axis that grows linearly between half-pixel centres. `bilinear`,
    `bicubic` and `lanczos` are Pillow's, whose kernels widen where an axis shrinks;
    the public implementations of most systems use one of these.
    """
    if image.shape[:2] == size:
        return image
    if interpolation != "area":
        kernel = Image.Resampling[interpolation.upper()]
        return np.asarray(Image.fromarray(image).resize(size[::-1], kernel))
    rows = _weights(image.shape[0], size[0])
    columns = _weights(image.shape[1], size[1])
    out = np.tensordot(rows, image.astype(np.float32), axes=(1, 0))
    out = np.einsum("oj,ijc->ioc", columns, out, optimize=True)
    return np.ascontiguousarray(np.clip(np.rint(out), 0, 255).astype(np.uint8))


def _weights(size_in: int, size_out: int) -> np.ndarray:
    """Returns the [size_out, size_in] float32 matrix of one axis; rows sum to 1."""
    scale = size_in / size_out
    out = np.arange(size_out, dtype=np.float64)[:, None]
    source = np.arange(size_in, dtype=np.float64)[None, :]
    if scale >= 1:
        low, high = out * scale, (out + 1) * scale
        overlap = np.minimum(high, source + 1) - np.maximum(low, source)
        weights = np.clip(overlap, 0, None)
    else:
        centre = np.clip((out + 0.5) * scale - 0.5, 0, size_in - 1)
        weights = np.clip(1 - np.abs(centre - source), 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
