"""Streams a preprocessed class from TFDS shards with tf.data.

The shards are TFRecord files, which TFDS reads from the front only; its random access
needs files of another format and does not go through tf.data. So the places of the
samples are learned once, and tf.data reads, parses and prefetches whatever batches of
them the reader's order asks for.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_pipelines.arrangements import SPLITS
from data_pipelines.errors import DatasetError
from data_pipelines.prepared import Prepared, damaged
from data_pipelines.reader import AHEAD, Arrays, Opener, Reader, Source

THREADS = 4
HEADER, FOOTER = 12, 4  # bytes around each record of a TFRecord file


class Place(NamedTuple):
    """Where a serialised sample lies."""

    shard: Path
    offset: int  # bytes
    length: int  # bytes


class Shards(Source):
    """A split in TFRecord files; arrays of a few batches exist at a time."""

    def __init__(self, prepared: Prepared, split: str):
        """Reads the shards once, to check them and to learn where each sample lies.

        Raises:
            DatasetError: a shard is damaged or samples are missing.
        """
        self._fields = prepared.manifest["fields"]
        self._facts = prepared.facts(split)
        self._places = _places(prepared, split)

    def size(self) -> int:
        """Returns the number of samples."""
        return len(self._places)

    def facts(self, numbers: np.ndarray) -> Arrays:
        """Returns the facts of samples, see `Source.facts`."""
        return {name: array[numbers] for name, array in self._facts.items()}

    def read(self, numbers: np.ndarray) -> Arrays:
        """Returns the fields of samples, see `Source.read`."""
        with self._damage_told():
            decoded = self._decode(tf.constant(self._serialized(numbers), tf.string))
            return {name: array.numpy() for name, array in decoded.items()}

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[Arrays]:
        """Yields what `read` returns for each of `batches`, by tf.data."""

        def serialized():
            yield from map(self._serialized, batches)

        signature = tf.TensorSpec([None], tf.string)
        dataset = tf.data.Dataset.from_generator(serialized, output_signature=signature)
        dataset = dataset.map(self._decode, num_parallel_calls=2, deterministic=True)
        options = tf.data.Options()
        options.threading.private_threadpool_size = THREADS
        dataset = dataset.with_options(options).prefetch(AHEAD)
        with self._damage_told():
            yield from dataset.as_numpy_iterator()

    def _serialized(self, numbers: np.ndarray) -> list[bytes]:
        return [_read(self._places[number]) for number in numbers]

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            raise damaged(self._places[0].shard, error.message) from error

    def _decode(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        parsing = {name: tf.io.FixedLenFeature([], tf.string) for name in self._fields}
        example = tf.io.parse_example(serialized, parsing)
        arrays = {}
        for name, (shape, dtype) in self._fields.items():
            flat = tf.io.decode_raw(example[name], tf.as_dtype(dtype))
            arrays[name] = tf.reshape(flat, [-1, *shape])
        return arrays


def open_stream(prepared: Prepared) -> Reader:
    """Returns a tf.data reader of a class, see `openers`."""
    return Reader(openers(prepared))


def openers(prepared: Prepared) -> dict[str, Opener]:
    """Returns what opens the splits of a class that was prepared in the format `tfds`.

    Raises:
        DatasetError: it was prepared as `npz`; or (when a split is opened) a shard is
            damaged or holds another number of samples than the manifest says.
    """
    if prepared.manifest["format"] != "tfds":
        raise DatasetError(
            f"{prepared.folder}: was prepared as {prepared.manifest['format']}; read "
            "it with resident.load_resident, or prepare it with format=tfds"
        )
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return {split: partial(Shards, prepared, split) for split in SPLITS}


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
        file.seek(place.offset)
        return file.read(place.length)
