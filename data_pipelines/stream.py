"""Streams a preprocessed class from TFDS shards with tf.data."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_pipelines.errors import DatasetError
from data_pipelines.order import endless_batches, ordered_batches, own_rows
from data_pipelines.prepared import Prepared, damaged, to_batch

THREADS = 4
PREFETCH = 2  # batches
HEADER, FOOTER = 12, 4  # bytes around each record of a TFRecord file


class Place(NamedTuple):
    """Where a serialised sample lies."""

    shard: Path
    offset: int  # bytes
    length: int  # bytes


class Stream:
    """A `base.Dataset` over TFRecord files, read sample by sample in any order.

    When a split is first asked for, its shards are read once to check them and to learn
    where each sample lies; arrays of a few batches exist at a time.
    """

    def __init__(self, prepared: Prepared):
        self._prepared = prepared
        self._places: dict[str, list[Place]] = {}
        self._share: tuple[int, int] | None = None

    def share(self, process: int, processes: int) -> "Stream":
        """Returns a view whose batches hold the pixels of a process's own rows alone.

        Zeros stand in the other rows; the numbers of all rows are there.
        """
        view = copy.copy(self)
        view._share = process, processes
        return view

    def size(self, split: str) -> int:
        """Returns the number of samples of a split."""
        return len(self._prepared.rows(split))

    def endless(self, split: str, batch_size: int, seed: int, start: int):
        """Yields full batches for ever, see `base.Dataset.endless`."""
        numbers = endless_batches(self.size(split), batch_size, seed, start)
        return self._batches(split, numbers, batch_size)

    def ordered(self, split: str, batch_size: int, start: int):
        """Yields each sample once, see `base.Dataset.ordered`."""
        numbers = ordered_batches(self.size(split), batch_size, start)
        return self._batches(split, numbers, batch_size)

    def _batches(self, split: str, numbers: Iterator[np.ndarray], batch_size: int):
        if split not in self._places:
            self._places[split] = _places(self._prepared, split)
        rows, places = self._prepared.rows(split), self._places[split]
        own = None if self._share is None else own_rows(batch_size, *self._share)
        dataset = _decoded(self._prepared, places, numbers, own)
        try:
            for batch, arrays in dataset.as_numpy_iterator():
                chosen = [rows[number] for number in batch]
                yield to_batch(self._prepared, chosen, arrays, batch_size, own)
        except tf.errors.OpError as error:
            raise damaged(places[0].shard, error.message) from error


def _decoded(
    prepared: Prepared,
    places: list[Place],
    numbers: Iterator[np.ndarray],
    own: slice | None = None,
) -> tf.data.Dataset:
    """Returns a data set of (numbers [n], {field: [n,...]}) for each of `numbers`.

    Of each batch the rows `own` are read, None = all.
    """
    rows = slice(None) if own is None else own
    fields = prepared.manifest["fields"]
    parsing = {name: tf.io.FixedLenFeature([], tf.string) for name in fields}

    def read():
        for batch in numbers:
            yield batch, [_read(places[number]) for number in batch[rows]]

    def decode(batch, serialized):
        example = tf.io.parse_example(serialized, parsing)
        arrays = {}
        for name, (shape, dtype) in fields.items():
            flat = tf.io.decode_raw(example[name], tf.as_dtype(dtype))
            arrays[name] = tf.reshape(flat, [-1, *shape])
        return batch, arrays

    signature = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string)
    dataset = tf.data.Dataset.from_generator(read, output_signature=signature)
    dataset = dataset.map(decode, num_parallel_calls=2, deterministic=True)
    options = tf.data.Options()
    options.threading.private_threadpool_size = THREADS
    return dataset.with_options(options).prefetch(PREFETCH)


def open_stream(prepared: Prepared) -> Stream:
    """Returns a tf.data reader of a class that was prepared in the format `tfds`.

    Raises:
        DatasetError: it was prepared as `npz`; or (when a split is first read) a shard
            is damaged or holds another number of samples than the manifest says.
    """
    if prepared.manifest["format"] != "tfds":
        raise DatasetError(
            f"{prepared.folder}: was prepared as {prepared.manifest['format']}; read "
            "it with resident.load_resident, or prepare it with format=tfds"
        )
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return Stream(prepared)


def read_arrays(prepared: Prepared, split: str) -> dict[str, np.ndarray]:
    """Returns all samples of a split in manifest order, [n,...] for each field.

    Raises:
        DatasetError: a shard is damaged or samples are missing.
    """
    places = _places(prepared, split)
    whole = iter([np.arange(len(places))])
    dataset = _decoded(prepared, places, whole)
    return next(dataset.as_numpy_iterator())[1]


def _places(prepared: Prepared, split: str) -> list[Place]:
    """Reads the shards of a split through, which checks their checksums."""
    places: list[Place] = []
    expected = len(prepared.rows(split))
    shards = [prepared.folder / n for n in prepared.manifest["shards"].get(split, [])]
    for shard in shards:
        offset = 0
        try:
            for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
                places.append(Place(shard, offset + HEADER, len(record)))
                offset += HEADER + len(record) + FOOTER
        except tf.errors.OpError as error:
            raise damaged(shard, error.message) from error
    if len(places) != expected:
        shard = shards[-1] if shards else prepared.folder / split
        raise damaged(shard, f"expected {expected} samples, found {len(places)}")
    return places


def _read(place: Place) -> bytes:
    with place.shard.open("rb") as file:
        return os.pread(file.fileno(), place.length, place.offset)
