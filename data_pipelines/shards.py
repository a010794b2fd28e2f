"""Writes preprocessed records: TFDS shards, or NumPy files without TensorFlow."""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data_pipelines.pairing import SampleFiles
from data_pipelines.recipes import RECIPES
from data_pipelines.samples import Processed, measured_by, records

NPZ_ROWS = 64  # samples in one file
Note = Callable[[Processed], None]


def write_npz(
    folder: Path,
    samples: Iterable[SampleFiles],
    recipe: str,
    params: dict[str, Any],
    note: Note,
) -> dict[str, list[str]]:
    """Writes `<split>-NNNNN.npz` files of the record's arrays, [n,...] each.

    Args:
        folder: where to.
        samples: in manifest order.
        recipe: a name of `recipes.RECIPES`.
        params: what the recipe learned.
        note: told of each record.

    Returns:
        The names of the files of each split, in order.
    """
    names: dict[str, list[str]] = {}
    pending: list[dict[str, np.ndarray]] = []

    def flush(split: str) -> None:
        if pending:
            of_split = names.setdefault(split, [])
            of_split.append(f"{split}-{len(of_split):05d}.npz")
            stacked = {k: np.stack([r[k] for r in pending]) for k in pending[0]}
            np.savez(folder / of_split[-1], **stacked)
            pending.clear()

    split = ""
    for processed in records(RECIPES[recipe], params, samples):
        if processed.files.split != split or len(pending) == NPZ_ROWS:
            flush(split)
        split = processed.files.split
        pending.append(processed.applied.record)
        note(processed)
    flush(split)
    return names


def write_tfds(
    folder: Path,
    samples: Iterable[SampleFiles],
    recipe: str,
    params: dict[str, Any],
    note: Note,
    ids: Mapping[str, int],
) -> dict[str, list[str]]:
    """Writes TFRecord shards with TensorFlow Datasets; arguments as in `write_npz`.

    `ids` are the samples' own, by their keys.

    Returns:
        The paths of the shards of each split, in order, relative to the folder.
    """
    import tensorflow_datasets as tfds

    from data_pipelines.builders.mvtec3d import Mvtec3d, Mvtec3dConfig

    samples = tuple(samples)
    config = Mvtec3dConfig(
        name="prepared",
        recipe=recipe,
        measured=measured_by(samples[0]),
        params=params,
        samples=samples,
        ids=ids,
        note=note,
    )
    tfds.disable_progress_bar()
    with _errors_alone():  # it warns of a configuration of ours
        builder = Mvtec3d(data_dir=str(folder), config=config)
    download = tfds.download.DownloadConfig(manual_dir=str(folder.parent))
    with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloads
        builder.download_and_prepare(
            download_dir=str(folder / "downloads"), download_config=download
        )
    shutil.rmtree(folder / "downloads")
    for split in builder.info.splits.values():
        for path in split.filepaths:
            _sort_fields(Path(path))
    return {
        split: [
            str(Path(path).relative_to(folder))
            for path in builder.info.splits[split].filepaths
        ]
        for split in builder.info.splits
    }


@contextlib.contextmanager
def _errors_alone() -> Iterator[None]:
    """Hides what is logged below errors."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _sort_fields(shard: Path) -> None:
    """Writes a shard again with the fields of each record in order of name.

    TFDS writes them in the order of a hash table, which differs between processes.
    """
    import tensorflow as tf

    ordered = shard.with_name(f"{shard.name}.ordered")
    with tf.io.TFRecordWriter(str(ordered)) as writer:
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            example = tf.train.Example.FromString(record)
            writer.write(example.SerializeToString(deterministic=True))
    ordered.replace(shard)
