"""Depth maps: closing gaps, the table's surface, the object in front of it."""

import numpy as np

LLOYD_STEPS = 20


def fill_gaps(depth: np.ndarray, passes: int = 3) -> np.ndarray:
    """Fills small gaps of a depth map [h,w] from their neighbours.

    In each pass every zero pixel becomes the sum of its 3 x 3 window over the number of
    positive pixels in it, if there are any; windows end at the border, and a pass reads
    only what the one before it left (AST, with its border corrected).

    Args:
        depth: [h,w] metres, 0 where unmeasured, never negative.
        passes: how often; a gap of up to 2 * passes pixels across is closed.

    Returns:
        [h,w] of the same dtype.
    """
    for _ in range(passes):
        total = _window_sum(depth.astype(np.float64))
        count = _window_sum((depth > 0).astype(np.float64))
        mean = (total / np.maximum(count, 1)).astype(depth.dtype)
        depth = np.where(depth == 0, mean, depth)
    return depth


def _window_sum(array: np.ndarray) -> np.ndarray:
    height, width = array.shape
    padded = np.pad(array, 1)
    rows = padded[:height] + padded[1 : height + 1] + padded[2:]
    return rows[:, :width] + rows[:, 1 : width + 1] + rows[:, 2:]


def background_surface(depth: np.ndarray) -> np.ndarray:
    """Returns the table's depth at each pixel, from the four corners of the image.

    Each corner counts with the mean of the positive depths in its window of 2 x 2
    pixels, doubled in side until it holds one; between the corners it is bilinear.

    Args:
        depth: [h,w] metres, 0 where unmeasured, with one positive value at least.

    Returns:
        [h,w] float64 metres.
    """
    height, width = depth.shape
    flips = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    corners = np.array([_corner(depth[::v, ::h]) for v, h in flips]).reshape(2, 2)
    down = np.linspace(0, 1, height)[:, None]
    right = np.linspace(0, 1, width)[None, :]
    top = corners[0, 0] * (1 - right) + corners[0, 1] * right
    bottom = corners[1, 0] * (1 - right) + corners[1, 1] * right
    return top * (1 - down) + bottom * down


def _corner(depth: np.ndarray) -> float:
    window = 2
    while True:
        patch = depth[:window, :window]
        if (patch > 0).any():
            return float(patch[patch > 0].mean(dtype=np.float64))
        if window >= max(depth.shape):
            raise ValueError("background_surface: expected a positive depth")
        window *= 2


def two_means(values: np.ndarray) -> tuple[float, float]:
    """Returns the centres (smaller, larger) of two clusters of [n] values, n >= 1.

    Lloyd's algorithm from the 5th and the 95th percentile, 20 steps at most.
    """
    values = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, high = np.percentile(values, [5, 95])
    for _ in range(LLOYD_STEPS):
        split = int(np.searchsorted(values, (low + high) / 2, side="right"))
        if split in (0, len(values)):
            break
        new = sums[split] / split, (sums[-1] - sums[split]) / (len(values) - split)
        if new == (low, high):
            break
        low, high = new
    return float(low), float(high)
