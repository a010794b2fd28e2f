"""A preprocessed class on disk: its folder and its manifest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.arrangements import SPLITS
from data_pipelines.errors import DatasetError

MANIFEST = "manifest.json"
DIGEST = "digest"


class Prepared(NamedTuple):
    """What `preprocess.prepare` wrote.

    The manifest is a table with: name (of the folder layout), category, category_index,
    sensor (what is declared of it, see `sensor_file.to_table`, or None), recipe,
    parameters, params (what the recipe learned), fields (name -> [shape, dtype] of each
    array of a record), extras (names), samples (in the order of all readers: split,
    defect, stem, id, label, nonfinite, distance, flags, regions, regions_lost, sha256),
    counts, faults, flags (name -> number of samples), regions (of all masks),
    regions_lost (those that vanish in resizing), remarks (sentences about flags and
    regions), duplicates, image_sizes, shards, format, package, rules, hash and digest
    (of the manifest itself).
    """

    folder: Path
    manifest: dict[str, Any]

    def rows(self, split: str) -> list[dict[str, Any]]:
        """Returns the manifest's entries of one split, in order.

        Raises:
            DatasetError: no such split is known.
        """
        if split not in SPLITS:
            raise DatasetError(
                f"split: expected {' or '.join(SPLITS)}, found {split!r}"
            )
        return [row for row in self.manifest["samples"] if row["split"] == split]

    def facts(self, split: str) -> dict[str, np.ndarray]:
        """Returns the facts of a split's samples, in order, see `facts_of`."""
        return facts_of(self.rows(split), self.manifest["category_index"])


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest of a folder, with a digest of all that stands in it."""
    whole = {**manifest, DIGEST: _digest(manifest)}
    text = json.dumps(whole, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def open_prepared(folder: str | Path) -> Prepared:
    """Opens a folder that `preprocess.prepare` wrote.

    Raises:
        DatasetError: there is no manifest, it cannot be read, or it is not what was
            written.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = _digest({n: x for n, x in manifest.items() if n != DIGEST})
        if manifest.get(DIGEST) != found:
            raise ValueError(f"its digest is {found}, not {manifest.get(DIGEST)}")
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: expected the manifest of preprocessed data, found none"
        ) from error
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"{path}: the manifest is damaged ({error}); {_remedy(Path(folder))}"
        ) from error
    return Prepared(Path(folder), manifest)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def damaged(shard: str | Path, reason: object) -> DatasetError:
    """Returns the error of a shard that cannot be read, with what to do about it."""
    remedy = _remedy(Path(shard).parent)
    return DatasetError(f"{shard}: the shard is damaged ({reason}); {remedy}")


def _remedy(folder: Path) -> str:
    return (
        f"remove the preprocessed folder that holds it ({folder}) and run again, and "
        "it is made anew"
    )


def facts_of(rows: list[dict[str, Any]], category: int) -> dict[str, np.ndarray]:
    """Returns what is one number a sample: id, label and category, [n] int32 each.

    Args:
        rows: entries of a manifest, n of them.
        category: index of their class.
    """
    return {
        "id": np.array([row["id"] for row in rows], np.int32),
        "label": np.array([row["label"] for row in rows], np.int32),
        "category": np.full(len(rows), category, np.int32),
    }
