"""The one reader: sources by name, read in order or for ever, whole or shared."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import numpy as np

from ad3d_jax.base import Batch
from data_pipelines.batches import among, assemble
from data_pipelines.errors import DatasetError
from data_pipelines.order import endless_batches, ordered_batches, own_rows

AHEAD = 2  # batches that are read before they are asked for
Arrays = Mapping[str, np.ndarray]


class Source(Protocol):
    """Samples that can be read in any order, numbered from 0 on.

    Fields are named as in `base.Batch`, any other name is one of the extras; rgb may be
    uint8.
    """

    def size(self) -> int:
        """Returns the number of samples."""

    def facts(self, numbers: np.ndarray) -> Arrays:
        """Returns what is one number a sample: `id`, and `category` and `label`.

        Args:
            numbers: [n] of samples.

        Returns:
            [n] int32 of each field; those that are unknown are left out.
        """

    def read(self, numbers: np.ndarray) -> Arrays:
        """Returns the other fields of samples `numbers` [n], [n,...] each; n may be 0.

        It may be called from several threads at once.
        """

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[Arrays]:
        """Yields what `read` returns for each of `batches`, read ahead of time."""
        with ThreadPoolExecutor(AHEAD) as pool:
            waiting = (pool.submit(self.read, numbers) for numbers in batches)
            begun = deque(islice(waiting, AHEAD))
            while begun:
                arrays = begun.popleft().result()
                begun.extend(islice(waiting, 1))
                yield arrays


Opener = Callable[[], Source]


class Held(Source):
    """Samples in memory."""

    def __init__(self, arrays: Arrays, facts: Arrays):
        """Keeps [size,...] of each field, see `Source`."""
        self._arrays, self._facts = arrays, facts

    def size(self) -> int:
        """Returns the number of samples."""
        return len(self._facts["id"])

    def facts(self, numbers: np.ndarray) -> Arrays:
        """Returns the facts of samples, see `Source.facts`."""
        return {name: array[numbers] for name, array in self._facts.items()}

    def read(self, numbers: np.ndarray) -> Arrays:
        """Returns the fields of samples, see `Source.read`."""
        return {name: array[numbers] for name, array in self._arrays.items()}


class Subset(Source):
    """Some samples of a source, in the order of their numbers there."""

    def __init__(self, source: Source, numbers: np.ndarray):
        """Takes the source and the numbers [size] of its samples."""
        self._source, self._chosen = source, np.asarray(numbers)

    def size(self) -> int:
        """Returns the number of samples."""
        return len(self._chosen)

    def facts(self, numbers: np.ndarray) -> Arrays:
        """Returns the facts of samples, see `Source.facts`."""
        return self._source.facts(self._chosen[numbers])

    def read(self, numbers: np.ndarray) -> Arrays:
        """Returns the fields of samples, see `Source.read`."""
        return self._source.read(self._chosen[numbers])

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[Arrays]:
        """Yields what `read` returns for each of `batches`, see `Source.stream`."""
        return self._source.stream(self._chosen[numbers] for numbers in batches)


def of_batch(batch: Batch) -> Held:
    """Returns the samples of a host batch, whose rows are all real."""
    fields = {**batch._asdict(), **batch.extras}
    present = {n: x for n, x in fields.items() if n not in ("extras", "weight")}
    present = {n: x for n, x in present.items() if x is not None}
    facts = {n: present.pop(n) for n in ("id", "category", "label") if n in present}
    return Held(present, facts)


class Reader:
    """A `base.Dataset` of sources by name; each is opened when it is first asked for.

    Splits of a class are sources, as are natural images or the training samples of all
    classes.
    """

    def __init__(self, openers: Mapping[str, Opener]):
        """Takes the functions that open the sources, by name."""
        self._openers = dict(openers)
        self._opened: dict[str, Source] = {}  # shared with views of the same sources
        self._chosen: dict[str, np.ndarray] = {}
        self._share: tuple[int, int] | None = None

    def joined(self, openers: Mapping[str, Opener]) -> "Reader":
        """Returns a view that has further sources, opened when first asked for."""
        view = copy.copy(self)
        view._openers = {**self._openers, **openers}
        view._opened = dict(self._opened)
        return view

    def only(self, split: str, numbers: np.ndarray) -> "Reader":
        """Returns a view with some samples of a source alone.

        Args:
            split: name of the source.
            numbers: [n] of samples, in the order of this reader.
        """
        view = copy.copy(self)
        view._chosen = {**self._chosen, split: self._numbers(split)[numbers]}
        return view

    def share(self, process: int, processes: int) -> "Reader":
        """Returns a view whose batches hold the pixels of a process's own rows alone.

        Zeros stand in the other rows; the facts of all rows are there.
        """
        view = copy.copy(self)
        view._share = process, processes
        return view

    def size(self, split: str) -> int:
        """Returns the number of samples of a source."""
        return len(self._numbers(split))

    def endless(self, split: str, batch_size: int, seed: int, start: int):
        """Yields full batches for ever, see `base.Dataset.endless`."""
        size = self.size(split)
        order = (endless_batches(size, batch_size, seed, start) for _ in range(2))
        return self._batches(split, batch_size, *order)

    def ordered(self, split: str, batch_size: int, start: int):
        """Yields each sample once, see `base.Dataset.ordered`."""
        size = self.size(split)
        order = (ordered_batches(size, batch_size, start) for _ in range(2))
        return self._batches(split, batch_size, *order)

    def _source(self, split: str) -> Source:
        if split not in self._openers:
            expected = " or ".join(self._openers)
            raise DatasetError(f"split: expected {expected}, found {split!r}")
        if split not in self._opened:
            self._opened[split] = self._openers[split]()
        return self._opened[split]

    def _numbers(self, split: str) -> np.ndarray:
        if split in self._chosen:
            return self._chosen[split]
        return np.arange(self._source(split).size())

    def _batches(
        self,
        split: str,
        batch_size: int,
        order: Iterator[np.ndarray],
        same_order: Iterator[np.ndarray],
    ) -> Iterator[Batch]:
        """Yields the batches of an order, which is given twice: reading runs ahead."""
        source, numbers = self._source(split), self._numbers(split)
        own = None if self._share is None else own_rows(batch_size, *self._share)
        rows = slice(None) if own is None else own
        parts = source.stream(numbers[batch[rows]] for batch in same_order)
        for batch, arrays in zip(order, parts, strict=True):
            facts = source.facts(numbers[batch])
            if own is None:
                yield assemble({**arrays, **facts}, batch_size)
                continue
            mine = {name: fact[own] for name, fact in facts.items()}
            part = assemble({**arrays, **mine}, own.stop - own.start)
            yield among(part, own, facts, batch_size)
