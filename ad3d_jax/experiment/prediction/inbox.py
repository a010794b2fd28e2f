"""What a folder holds to be scored, and what of it has come since."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from absl import logging

from ad3d_jax.experiment.loading import Loaded
from ad3d_jax.workdir.predictions import Predictions
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.inbox import Listed, list_folder
from data_pipelines.samples import sample_ids, sha256
from data_pipelines.sensor import Sensor

POLL = 1.0  # seconds between two looks at a folder that is watched
SETTLED = 3.0  # seconds after which a file that nobody writes to is whole
UNREAD = "0" * 64  # in place of the digest of what cannot be read
Stat = tuple[int, int]  # bytes, and the time of the last change


class Due(NamedTuple):
    """A sample that is to be scored."""

    name: str
    id: int
    sha256: str  # of its files
    files: Listed | None  # None: see `error`
    sensor: Sensor | None
    error: str = ""  # why it cannot be read


class Inbox:
    """A folder of samples without labels, as a detector reads it.

    Attributes:
        names: of the samples that were read of.
    """

    def __init__(self, folder: Path, detector: Loaded):
        """Takes the folder; nothing is read yet."""
        self._folder = folder
        self._fitted = detector.reads
        self.names: set[str] = set()
        self._told: set[str] = set()
        self._digests: dict[tuple[Path, Stat], str] = {}
        self._seen: dict[Path, Stat | None] = {}

    def look(self, settled: bool = False) -> list[Callable[[], Due]]:
        """Returns what reads of each sample that lies there now what it is, by name.

        With `settled` of those alone whose files nobody writes to: their size and time
        are what they were at the last look, or are some seconds old.

        Raises:
            DatasetError: there are no images, or points are needed and missing.
        """
        with _once(self._told):
            listing = list_folder(self._folder, **self._fitted)
        found = [
            (_files(sample), partial(self._whole, sample, listing.sensor))
            for sample in listing.samples
        ]
        found += [([e.path], partial(self._left_out, e)) for e in listing.left_out]
        seen = {path: _stat(path) for paths, _ in found for path in paths}
        before, self._seen = self._seen, seen

        def taken(path: Path) -> bool:
            return not settled or _is_settled(before.get(path), seen[path])

        return [make for paths, make in found if all(map(taken, paths))]

    def _whole(self, files: Listed, sensor: Sensor) -> Due:
        """Returns a sample that has all its files."""
        measured = {"rgb": files.image, "xyz": files.points}
        digests = {name: self._digest(path) for name, path in measured.items() if path}
        number = sample_ids({files.name: digests})[files.name]
        content = _joined([self._digest(path) for path in _files(files)])
        self.names.add(files.name)
        return Due(files.name, number, content, files, sensor)

    def _left_out(self, error: CorruptSampleError) -> Due:
        """Returns a sample that lacks a file, or has two of a kind."""
        name, content = error.path.stem, self._digest(error.path)
        self.names.add(name)
        return Due(name, 0, content, None, None, str(error))

    def _digest(self, path: Path) -> str:
        """Returns a file's SHA-256, read once as long as it stays as it is."""
        case = path, _stat(path)
        if case not in self._digests:
            try:
                self._digests[case] = sha256(path)
            except CorruptSampleError:
                return UNREAD
        return self._digests[case]


def due(
    inbox: Inbox,
    done: Predictions,
    watch: bool,
    stopped: Callable[[], bool],
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Due]:
    """Yields the samples of a folder that have no row, or changed since.

    Args:
        inbox: the folder.
        done: the rows that there are.
        watch: whether to go on when all are done, and wait for others.
        stopped: whether to end.
        wait: for some seconds.
    """
    said = ""
    while not stopped():
        try:
            found = inbox.look(settled=watch)
        except DatasetError as error:
            if not watch:
                raise
            found = []
            if said != (said := str(error)):
                logging.warning("%s; waiting", said)
        for make in found:
            if stopped():
                return
            sample = make()
            if not done.has(sample.name, sample.sha256):
                yield sample
        if not watch:
            return
        wait(POLL)


@contextmanager
def _once(told: set[str]) -> Iterator[None]:
    """Passes on what is logged within, each sentence once."""

    def fresh(record) -> bool:
        sentence = record.getMessage()
        new = sentence not in told
        told.add(sentence)
        return new

    logger = logging.get_absl_logger()
    logger.addFilter(fresh)
    try:
        yield
    finally:
        logger.removeFilter(fresh)


def _files(sample: Listed) -> list[Path]:
    files = sample.image, sample.points, sample.camera
    return [path for path in files if path is not None]


def _stat(path: Path) -> Stat | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _is_settled(before: Stat | None, now: Stat | None) -> bool:
    """Returns whether a file is there, and whole as far as one can tell."""
    if now is None:
        return False
    return before == now or time.time() - now[1] / 1e9 > SETTLED


def _joined(digests: list[str]) -> str:
    """Returns one digest of several files'; that of one is its own."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
