"""Samples and data sets in memory, to try systems with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from ad3d_jax.base import Array, Batch
from ad3d_jax.synthesis.textures import procedural_textures

DEFECT = (slice(4, 12), slice(4, 12))  # rows and columns of the planted defect
# Fields that say nothing of what was measured.
BOOK_KEEPING = ("weight", "id", "category")
MEASURED = ("rgb", "xyz", "depth", "valid", "foreground")


def make_batch(
    count: int,
    size: int = 16,
    seed: int = 0,
    defect: bool = False,
    rails: bool = False,
) -> Batch:
    """Returns host samples of one textured board, [count,size,size,...].

    Args:
        count: number of samples.
        size: pixels of a side.
        seed: of the samples.
        defect: whether each has a bright, raised square at `DEFECT`.
        rails: whether the first row lies above all else and the last one below, so that
            a defect does not stretch the range that some systems scale depth by, and
            with it the whole image.
    """
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    waves = 0.5 + 0.2 * np.sin(x[None] + rng.uniform(0, 6, (count, 1, 1)))
    rgb = np.stack([waves, 0.5 * waves + 0.2, 1 - waves], -1)
    rgb = rgb + rng.normal(0, 0.01, rgb.shape)
    depth = 0.5 + 0.001 * np.cos(y)[None] + rng.normal(0, 1e-4, (count, size, size))
    normalised = 0.5 + 150 * (depth - 0.5)
    if rails:
        depth[:, 0], depth[:, -1] = 0.475, 0.525
    mask = np.zeros((count, size, size), bool)
    if defect:
        mask[(slice(None), *DEFECT)] = True
        rgb[mask] = (0.95, 0.9, 0.95)
        depth[mask] += 0.02
        normalised[mask] += 0.25
    xyz = np.stack(
        [0.001 * np.broadcast_to(x, depth.shape), 0.001 * y + 0 * depth, depth], -1
    )
    normalised = normalised[..., None].astype(np.float32)
    everywhere = np.ones((count, size, size, 1), bool)
    return Batch(
        rgb=np.clip(rgb, 0, 1).astype(np.float32),
        xyz=xyz.astype(np.float32),
        depth=depth[..., None].astype(np.float32),
        valid=everywhere,
        foreground=everywhere.copy(),
        extras=dict.fromkeys(("depth_normalised", "height_normalised"), normalised),
        weight=np.ones(count, np.float32),
        id=rng.choice(2**31 - 1, count, replace=False).astype(np.int32),
        category=np.zeros(count, np.int32),
        mask=mask[..., None],
        label=np.full(count, int(defect), np.int32),
    )


def procedural_images(count: int, size: int) -> Batch:
    """Returns textures as images [count,size,size,3], as a pretraining reads them."""
    textures = np.asarray(procedural_textures(jax.random.key(0), count, size))
    return Batch(
        rgb=textures.astype(np.float32) / 255,
        weight=np.ones(count, np.float32),
        id=np.arange(count, dtype=np.int32),
    )


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Returns the given rows of a host batch."""
    return jax.tree.map(lambda x: x[np.asarray(rows, int)], batch)


def side_by_side(batch: Batch) -> Batch:
    """Returns one wide sample of all rows; its book-keeping is that of the first."""

    def joined(x):
        return np.concatenate(list(x), axis=1)[None] if x.ndim == 4 else x[:1]

    return jax.tree.map(joined, batch)


def columns(batch: Batch, first: int, last: int) -> Batch:
    """Returns columns of all that has rows and columns."""
    return jax.tree.map(lambda x: x[:, :, first:last] if x.ndim == 4 else x, batch)


def pad(batch: Batch, count: int, garbage: float = np.nan) -> Batch:
    """Returns the batch with `count` more rows of weight 0 that hold garbage."""

    def extend(x):
        fill = garbage if np.issubdtype(x.dtype, np.floating) else 1
        return np.concatenate([x, np.full((count, *x.shape[1:]), fill, x.dtype)])

    weight = np.concatenate([batch.weight, np.zeros(count, np.float32)])
    return jax.tree.map(extend, batch)._replace(weight=weight)


def degenerate(batch: Batch) -> Batch:
    """Returns the batch with rows that measure all 0, nothing, and all 1.

    The first row stays as it is; those are the second to the fourth.
    """

    def spoil(name: str, x: Array) -> Array:
        x = np.array(x)
        x[1] = 0
        if name != "rgb":
            x[2] = 0
        if x.dtype != bool:
            x[3] = 1
        return x

    there = [name for name in MEASURED if getattr(batch, name) is not None]
    spoilt = {name: spoil(name, getattr(batch, name)) for name in there}
    extras = {name: spoil(name, x) for name, x in batch.extras.items()}
    return batch._replace(**spoilt, extras=extras)


def only(needs: Sequence[str], batch: Batch) -> Batch:
    """Returns the batch with nothing but the named fields and its book-keeping."""
    extras = {n: x for n, x in batch.extras.items() if f"extras.{n}" in needs}
    kept = (*needs, *BOOK_KEEPING)
    return batch._replace(
        **{name: None for name in Batch._fields if name not in kept}
        | {"extras": extras}
    )


class MemoryDataset(NamedTuple):
    """A `base.Dataset` of host batches in memory, one a split."""

    splits: Mapping[str, Batch]

    def size(self, split: str) -> int:
        """Returns the number of samples."""
        return len(self.splits[split].weight)

    def endless(
        self, split: str, batch_size: int, seed: int, start: int
    ) -> Iterator[Batch]:
        """Yields batches for ever; see `base.Dataset`."""
        data, size = self.splits[split], self.size(split)
        while True:
            places = np.arange(start * batch_size, (start + 1) * batch_size)
            rows = [
                np.random.default_rng((seed, place // size)).permutation(size)[
                    place % size
                ]
                for place in places
            ]
            yield take(data, rows)
            start += 1

    def ordered(self, split: str, batch_size: int, start: int) -> Iterator[Batch]:
        """Yields each sample once; see `base.Dataset`."""
        data, size = self.splits[split], self.size(split)
        for first in range(start * batch_size, size, batch_size):
            rows = np.arange(first, min(first + batch_size, size))
            yield pad(take(data, rows), batch_size - len(rows))

    def share(self, process: int, processes: int) -> "MemoryDataset":
        """Returns the data set: other processes' rows do no harm."""
        return self

    def only(self, split: str, numbers: Array) -> "MemoryDataset":
        """Returns a view with some samples of a split; see `base.Dataset`."""
        return MemoryDataset({**self.splits, split: take(self.splits[split], numbers)})


class PaddedDataset(MemoryDataset):
    """A `MemoryDataset` whose batches may hold rows of weight 0 already."""

    def size(self, split: str) -> int:
        """Returns the number of samples, padding left out."""
        return int(np.count_nonzero(self.splits[split].weight))

    def ordered(self, split: str, batch_size: int, start: int) -> Iterator[Batch]:
        """Yields each row once; see `base.Dataset`."""
        return MemoryDataset(self.splits).ordered(split, batch_size, start)
