"""Resizes as the library's recipes do, with NumPy alone, and with equal bits."""

import math

import numpy as np

BITS = 2.0**22  # behind the point of the whole weights that Pillow's kernels have


def resized(params, array, resize):
    """Returns [h,w,...] resized and cropped to the size of the images."""
    size = params["image_size"]
    height, width = (size, size) if isinstance(size, int) else map(int, size)
    before, shorter = (height, width), params["resize_size"]
    if shorter is not None:
        before = tuple(shorter * n // min(array.shape[:2]) for n in array.shape[:2])
    if array.shape[:2] != before:
        array = resize(array, before)
    elif resize is linear and array.dtype != bool:
        array = array.astype(np.float32)
    top, left = round((before[0] - height) / 2), round((before[1] - width) / 2)
    return np.ascontiguousarray(array[top : top + height, left : left + width])


def nearest(array, size):
    """Resizes [h,w,...] by picking samples."""
    rows, columns = (
        np.arange(out) * n // out for out, n in zip(size, array.shape, strict=False)
    )
    return array[rows][:, columns]


def linear(array, size):
    """Resizes [h,w] between half-pixel centres; of bool, where any share is true."""
    found = summed(array.astype(np.float32), size, linear_taps)
    return found > 0 if array.dtype == bool else found


def image(interpolation, pillow):
    """Returns what resizes a uint8 image [h,w,3]: area, linear, or as a Pillow does."""

    def resize(array, size):
        if interpolation in KERNELS:
            axes = order(array.shape, size, int(pillow.split(".")[0]))
            return filtered(array, size, axes, *KERNELS[interpolation])
        taps = {"area": area_taps, "linear": linear_taps}[interpolation]
        out = summed(array.astype(np.float32), size, taps)
        return np.clip(np.rint(out), 0, 255).astype(np.uint8)

    return resize


def summed(array, size, taps):
    """Returns [h,w,...] float32 with rows, then columns, summed from a few of them."""
    for axis, length in enumerate(size):
        if array.shape[axis] == length:
            continue
        lines = np.moveaxis(array, axis, 0)
        out = 0.0
        for source, weight in zip(*taps(lines.shape[0], length), strict=True):
            weight = weight.reshape(-1, *[1] * (array.ndim - 1)).astype(np.float32)
            out = out + weight * lines[source]
        array = np.moveaxis(out, 0, axis)
    return array


def area_taps(before, after):
    """Returns the lines that each line is made of, and their weights, [n,after]."""
    if before < after:
        return linear_taps(before, after)
    scale = before / after
    low = np.arange(after) * scale
    source = np.floor(low).astype(int) + np.arange(math.ceil(scale) + 1)[:, None]
    overlap = np.minimum(low + scale, source + 1) - np.maximum(low, source)
    weights = np.where(source < before, np.clip(overlap, 0, None), 0)
    return np.minimum(source, before - 1), weights / weights.sum(axis=0)


def linear_taps(before, after):
    """Returns the two lines next to the centre of each one, and their weights."""
    centre = (np.arange(after) + 0.5) * (before / after) - 0.5
    centre = np.clip(centre, 0, before - 1)
    first = np.floor(centre).astype(int)
    share = centre - first
    lines = np.stack([first, np.minimum(first + 1, before - 1)])
    return lines, np.stack([1 - share, share])


def order(before, after, pillow):
    """Returns the axes in the order that a version of Pillow resizes them in."""
    rows, columns = (n - m for n, m in zip(before, after, strict=False))
    return (0, 1) if pillow >= 13 and rows > max(0, 2 * columns) else (1, 0)


def filtered(array, size, axes, kernel, support):
    """Resizes a uint8 image as Pillow does, by weights that are whole numbers."""
    for axis in axes:
        if array.shape[axis] == size[axis]:
            continue
        weights = kernel_weights(array.shape[axis], size[axis], kernel, support)
        # Exact: sums of whole numbers below 2**53.
        total = np.tensordot(weights, array.astype(np.float64), (1, axis))
        total = np.moveaxis(np.floor(total / BITS + 0.5), 0, axis)
        array = np.clip(total, 0, 255).astype(np.uint8)
    return array


def kernel_weights(before, after, kernel, support):
    """Returns what each line takes of all lines, [after,before], times BITS."""
    scale = before / after
    wide = max(scale, 1.0)
    weights = np.zeros((after, before))
    for line in range(after):
        centre = (line + 0.5) * scale
        first = max(int(centre - support * wide + 0.5), 0)
        last = min(int(centre + support * wide + 0.5), before)
        places = (np.arange(first, last) - centre + 0.5) * (1 / wide)
        row = np.array([kernel(place) for place in places.tolist()])
        whole = row / sum(row.tolist()) * BITS
        weights[line, first:last] = np.trunc(whole + np.copysign(0.5, whole))
    return weights


def triangle(x):
    """Returns the linear kernel."""
    return max(1.0 - abs(x), 0.0)


def cubic(x):
    """Returns Keys' kernel with a = -1/2."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2 else 0.0


def lanczos(x):
    """Returns the windowed sinc with three lobes."""

    def sinc(x):
        return math.sin(x * math.pi) / (x * math.pi) if x else 1.0

    return sinc(x) * sinc(x / 3) if -3 <= x < 3 else 0.0


KERNELS = {"bilinear": (triangle, 1.0), "bicubic": (cubic, 2.0)} | {
    "lanczos": (lanczos, 3.0)
}
