"""Resizing and cropping images and maps with one fixed rule each."""

from collections.abc import Callable

import numpy as np
from PIL import Image

INTERPOLATIONS = ("area", "linear", "bilinear", "bicubic", "lanczos")  # of images


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


def crop_begins(size: tuple[int, int], cropped: tuple[int, int]) -> tuple[int, int]:
    """Returns the row and the column that a centre crop begins at.

    Half pixels are rounded to the even number, as torchvision does.
    """
    (height, width), (rows, columns) = size, cropped
    return round((height - rows) / 2), round((width - columns) / 2)


def centre_crop(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the middle of [H,W,...], `size` (rows, columns) of it, at most all."""
    top, left = crop_begins(array.shape[:2], size)
    return array[top : top + size[0], left : left + size[1]]


def resize_image(
    image: np.ndarray, size: tuple[int, int], interpolation: str = "area"
) -> np.ndarray:
    """Resizes a uint8 image [H,W,C] to `size` (rows, columns).

    `area` averages each axis that shrinks over the area of each output pixel and
    interpolates each axis that grows linearly between half-pixel centres. `linear`
    interpolates in either case, as OpenCV does: what shrinks is not filtered.
    `bilinear`, `bicubic` and `lanczos` are Pillow's, whose kernels widen where an axis
    shrinks; the public implementations of most systems use one of these.
    """
    if image.shape[:2] == size:
        return image
    if interpolation not in ("area", "linear"):
        kernel = Image.Resampling[interpolation.upper()]
        return np.asarray(Image.fromarray(image).resize(size[::-1], kernel))
    taps = _area if interpolation == "area" else _linear
    out = _summed(image.astype(np.float32), size, taps)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def resize_linear(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes [H,W,...] to `size` (rows, columns) between half-pixel centres, float32.

    A bool array gives the share that is true.
    """
    array = array.astype(np.float32)
    return array if array.shape[:2] == size else _summed(array, size, _linear)


def _summed(array: np.ndarray, size: tuple[int, int], taps: Callable) -> np.ndarray:
    """Returns [H,W,...] float32 with rows, then columns, summed from a few of them."""
    for axis, length in enumerate(size):
        if array.shape[axis] == length:
            continue
        lines = np.moveaxis(array, axis, 0)
        out = 0.0
        for source, weight in zip(*taps(lines.shape[0], length), strict=True):
            weight = weight.reshape(-1, *[1] * (array.ndim - 1)).astype(np.float32)
            out = out + weight * lines[source]
        array = np.moveaxis(out, 0, axis)
    return np.ascontiguousarray(array)


def _area(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which lines a line of the result is made of, and weights, [n,size_out].

    Weights add up to 1; lines of no weight may occur.
    """
    if size_in < size_out:
        return _linear(size_in, size_out)
    scale = size_in / size_out
    low = np.arange(size_out) * scale
    high = low + scale
    source = np.floor(low).astype(int) + np.arange(int(np.ceil(scale)) + 1)[:, None]
    overlap = np.minimum(high, source + 1) - np.maximum(low, source)
    weights = np.where(source < size_in, np.clip(overlap, 0, None), 0)
    return np.minimum(source, size_in - 1), weights / weights.sum(axis=0)


def _linear(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two lines next to the centre of each one, and weights, as `_area`."""
    centre = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    centre = np.clip(centre, 0, size_in - 1)
    first = np.floor(centre).astype(int)
    share = centre - first
    return np.stack([first, np.minimum(first + 1, size_in - 1)]), np.stack(
        [1 - share, share]
    )
