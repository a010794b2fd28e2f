"""Reads samples without labels, for prediction; `inbox` says how they lie."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from ad3d_jax.base import Batch
from data_pipelines.batches import assemble
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.inbox import Listed, Listing, list_folder, needs_points
from data_pipelines.measured import distance
from data_pipelines.recipes import RECIPES, Record, Sample
from data_pipelines.remarks import SENTENCES
from data_pipelines.samples import (
    complete_parameters,
    load_measured,
    sample_ids,
    sha256,
)
from data_pipelines.sensor import PLAIN, Sensor

SQUASHED = 0.01
OTHER = 2.0  # times the distances that were fitted, above which a unit may be wrong
UNREAD = "0" * 64


def read_folder(
    folder: str | Path,
    recipe: str,
    params: Mapping[str, Any],
    needs: Iterable[str],
    sizes: Collection[tuple[int, int]] = (),
    distances: Sequence[float] = (),
    left_out: list[CorruptSampleError] | None = None,
    sensor: Sensor | None = None,
) -> Iterator[tuple[str, Record]]:
    """Finds the samples of a folder and returns an iterator that preprocesses them.

    Args:
        folder: see `inbox`.
        recipe: a name of `recipes.RECIPES`.
        params: what the recipe learned, as in the manifest or a workdir's origin.json.
        needs: names of batch fields; points are read only if a name other than rgb is
            among them or the recipe needs points, and must then be there.
        sizes: of the samples that the system was fitted on, see `check_proportions`.
        distances: of them, see `to_record`.
        left_out: gets the error of each sample that cannot be read, which is passed
            over; None = it is raised.
        sensor: what was declared of that class's sensor, see `inbox.list_folder`.

    Returns:
        An iterator of (name, record), sorted by name; a record has an `id` besides what
        the recipe makes, and no mask. No two samples have one name: it is the stem of
        the first file, with its ending where stems are not enough.

    Raises:
        DatasetError: (at once) there are no images, or points are needed and missing;
            (CorruptSampleError) two files have one stem and only one can be meant, or,
            while iterating, a file cannot be read.
    """
    listing = list_folder(folder, recipe, needs, sensor)
    if listing.left_out and left_out is None:
        raise listing.left_out[0]
    if listing.left_out:
        left_out += listing.left_out

    def records() -> Iterator[tuple[str, Record]]:
        told: set[str] = set()
        ids = listed_ids(listing)
        for files in listing.samples:
            try:
                sample, flags = read_sample(files, listing.sensor, sizes)
            except CorruptSampleError as error:
                if left_out is None:
                    raise
                left_out.append(error)
                continue
            record, given_up = to_record(
                *(recipe, params, ids[files.name]), *sample[:2], distances
            )
            tell(files.name, (*flags, *given_up), told)
            yield files.name, record

    return records()


def read_sample(
    files: Listed,
    sensor: Sensor = PLAIN,
    sizes: Collection[tuple[int, int]] = (),
) -> tuple[Sample, tuple[str, ...]]:
    """Returns what was measured of a sample, and what is odd about its files.

    Args:
        files: from `inbox.list_folder`.
        sensor: how they are read, from there.
        sizes: of the samples that the system was fitted on, see `check_proportions`.

    Raises:
        CorruptSampleError: a file cannot be read, or does not fit the others or what
            was fitted.
    """
    loaded = load_measured(files.image, files.points, sensor, files.camera)
    if sizes:
        try:
            check_proportions(loaded.sample.size, sizes)
        except DatasetError as error:
            raise CorruptSampleError(files.first, str(error)) from None
    return loaded.sample, loaded.flags


def listed_ids(listing: Listing) -> dict[str, int]:
    """Returns the ids of samples by name, as those of a class have them."""
    digests = {
        files.name: {
            name: _digest(path)
            for name, path in (("rgb", files.image), ("xyz", files.points))
            if path is not None
        }
        for files in listing.samples
    }
    return sample_ids(digests)


def to_record(
    recipe: str,
    params: Mapping[str, Any],
    id: int,
    rgb: np.ndarray | None = None,
    xyz: np.ndarray | None = None,
    distances: Sequence[float] = (),
) -> tuple[Record, tuple[str, ...]]:
    """Returns a measured sample as `collate` takes it, and what had to be given up.

    Args:
        recipe: a name of `recipes.RECIPES`.
        params: what the recipe learned.
        id: of the sample, 0 to 2**31 - 1.
        rgb: [h,w,3] uint8; None = no image.
        xyz: [h,w,3] float32 metres, (0,0,0) where unmeasured; None = no points.
        distances: least and greatest of what was fitted, metres; () = not known.
    """
    params = {**complete_parameters(recipe, {}), **params}  # one may be newer
    record, flags = RECIPES[recipe].apply(params, Sample(rgb, xyz))
    del record["mask"]
    metres = distance(record.get("xyz"))
    if metres is not None and distances:
        least, greatest = distances
        if not least / OTHER <= metres <= OTHER * greatest:
            flags = (*flags, "other_distance")
    return {**record, "id": np.int32(id)}, flags


def empty_record(
    recipe: str, params: Mapping[str, Any], needs: Iterable[str]
) -> Record:
    """Returns a record of zeros, for its shapes and dtypes alone."""
    params = {**complete_parameters(recipe, {}), **params}
    measured = {"rgb"} | ({"xyz"} if needs_points(recipe, needs) else set())
    fields = RECIPES[recipe].fields(params, frozenset(measured))
    del fields["mask"]
    record = {name: np.zeros(*field) for name, field in fields.items()}
    return {**record, "id": np.int32(0)}


def check_proportions(
    size: tuple[int, int], sizes: Collection[tuple[int, int]]
) -> None:
    """Refuses an image that the recipe would squash unlike those that were fitted.

    Proportions may differ by SQUASHED.

    Args:
        size: rows and columns.
        sizes: of the samples that were fitted; lists of points have one column.

    Raises:
        DatasetError: none of them has the proportions of this one.
    """
    lists = 1 in (size[1], *(w for _, w in sizes))
    squashed = (abs(h * size[1] / (w * size[0]) - 1) for h, w in sizes)
    if not lists and min(squashed) > SQUASHED:
        seen = ", ".join(f"{h} x {w}" for h, w in sizes)
        raise DatasetError(
            f"expected the proportions of what the system was fitted on ({seen} "
            f"pixels, rows by columns), found {size[0]} x {size[1]}"
        )


def tell(name: str, flags: Iterable[str], told: set[str]) -> None:
    """Logs what is odd about a sample, but for flags that were told, and adds them."""
    for flag in sorted(set(flags) - told):
        logging.warning("%s: %s (told once)", name, SENTENCES[flag])
    told.update(flags)


def _digest(path: Path) -> str:
    """Returns a file's SHA-256; of what cannot be read, as is told later, another."""
    with suppress(CorruptSampleError):
        if path.is_file():
            return sha256(path)
    return UNREAD


def collate(records: Iterable[Record], batch_size: int) -> Batch:
    """Returns up to `batch_size` records, one at least, as a batch.

    The batch is filled up with rows of weight 0; category is 0, mask and label None.
    """
    records = list(records)
    if not 0 < len(records) <= batch_size:
        raise DatasetError(
            f"collate: expected 1 to {batch_size} records, found {len(records)}"
        )
    arrays = {name: np.stack([r[name] for r in records]) for name in records[0]}
    arrays["category"] = np.zeros(len(records), np.int32)
    return assemble(arrays, batch_size)
