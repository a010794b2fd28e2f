"""Which samples a batch holds; the same for every reader."""

import numpy as np

from data_pipelines.errors import DatasetError


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order [size] of an epoch, which depends on seed, epoch and size."""
    return np.random.default_rng((seed, epoch)).permutation(size)


def endless_batches(size: int, batch_size: int, seed: int, start: int):
    """Returns an iterator of the sample numbers [batch_size] of batches from `start`.

    Epochs follow on each other without a gap; nothing before `start` is computed.

    Raises:
        DatasetError: there are no samples.
    """
    if size == 0:
        raise DatasetError(
            "expected samples to draw batches from, found an empty split"
        )
    return _endless(size, batch_size, seed, start * batch_size)


def _endless(size: int, batch_size: int, seed: int, first: int):
    epoch, order = -1, np.array([], np.int64)
    while True:
        batch = np.empty(batch_size, np.int64)
        for row in range(batch_size):
            now, place = divmod(first + row, size)
            if now != epoch:
                epoch, order = now, epoch_order(seed, now, size)
            batch[row] = order[place]
        yield batch
        first += batch_size


def own_rows(batch_size: int, process: int, processes: int) -> slice:
    """Returns which rows of each batch a process reads, in equal parts.

    Raises:
        DatasetError: the rows cannot be shared equally.
    """
    if batch_size % processes:
        raise DatasetError(
            f"batch size {batch_size} is not divisible by the {processes} processes "
            f"that share it; choose a multiple of {processes}"
        )
    each = batch_size // processes
    return slice(process * each, (process + 1) * each)


def ordered_batches(size: int, batch_size: int, start: int):
    """Yields the sample numbers of each batch in order; the last may be shorter."""
    for first in range(start * batch_size, size, batch_size):
        yield np.arange(first, min(first + batch_size, size))
