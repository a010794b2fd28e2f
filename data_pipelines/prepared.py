"""A preprocessed class on disk: its folder and its manifest."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ad3d_jax.base import Batch
from data_pipelines.batches import among, assemble
from data_pipelines.errors import DatasetError

MANIFEST = "manifest.json"


class Prepared(NamedTuple):
    """What `preprocess.prepare` wrote.

    The manifest is a table with: name (of the folder layout), category, category_index,
    recipe, parameters, params (what the recipe learned), fields (name -> [shape, dtype]
    of each array of a record), extras (names), samples (in the order of all readers:
    split, defect, stem, id, label, nonfinite, flags, sha256), counts, faults, flags,
    duplicates, image_sizes, shards, format, package and hash.
    """

    folder: Path
    manifest: dict[str, Any]

    def rows(self, split: str) -> list[dict[str, Any]]:
        """Returns the manifest's entries of one split, in order.

        Raises:
            DatasetError: no such split is known.
        """
        if split not in ("train", "validation", "test"):
            raise DatasetError(
                f"split: expected train, validation or test, found {split!r}"
            )
        return [row for row in self.manifest["samples"] if row["split"] == split]


def open_prepared(folder: str | Path) -> Prepared:
    """Opens a folder that `preprocess.prepare` wrote.

    Raises:
        DatasetError: there is no manifest or it cannot be read.
    """
    path = Path(folder) / MANIFEST
    try:
        return Prepared(Path(folder), json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path}: expected the manifest of preprocessed data: {error}"
        ) from error


def damaged(shard: str | Path, reason: object) -> DatasetError:
    """Returns the error of a shard that cannot be read, with what to do about it."""
    folder = Path(shard).parent
    return DatasetError(
        f"{shard}: the shard is damaged ({reason}); remove the preprocessed "
        f"folder that holds it ({folder}) and run again, and it is made anew"
    )


def to_batch(
    prepared: Prepared,
    rows: list[dict[str, Any]],
    arrays: Mapping[str, np.ndarray],
    batch_size: int,
    own: slice | None = None,
) -> Batch:
    """Returns stored arrays as a batch, filled up with rows of zeros and of weight 0.

    Args:
        prepared: where the arrays come from.
        rows: the manifest's entries of the samples, n <= batch_size of them.
        arrays: [n,...] of each field of the manifest; of the rows `own` alone.
        batch_size: rows of the batch.
        own: the rows of the batch that were read; None = all.
    """
    index = prepared.manifest["category_index"]
    numbers = {
        "id": np.array([row["id"] for row in rows], np.int32),
        "label": np.array([row["label"] for row in rows], np.int32),
        "category": np.full(len(rows), index, np.int32),
    }
    if own is None:
        return assemble({**arrays, **numbers}, batch_size)
    mine = {name: x[own] for name, x in numbers.items()}
    part = assemble({**arrays, **mine}, own.stop - own.start)
    return among(part, own, numbers, batch_size)
