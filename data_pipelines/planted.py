"""Good samples with planted defects: what a study is judged on instead of the test set.

Defects are planted into what the sensor measured, before any recipe, so that every
recipe and every feature sees the same ones. Each good sample stays in the split beside
its altered twins. All depends on (seed, id of the sample, number of the twin) alone.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from ad3d_jax.workdir.arrays import read_arrays, write_arrays
from ad3d_jax.workdir.unreadable import UnreadableError
from data_pipelines import layout
from data_pipelines.errors import DatasetError
from data_pipelines.planting import COLOUR, KINDS, plant
from data_pipelines.prepared import Prepared, facts_of
from data_pipelines.reader import Held, Reader
from data_pipelines.recipes import RECIPES
from data_pipelines.samples import load_sample, sample_id

SPLIT = "planted"
VERSION = 1  # of what is planted; a part of the name of the cache


class Settings(NamedTuple):
    """What is planted."""

    seed: int = 0
    twins: int = 2  # altered samples for each good one
    kinds: tuple[str, ...] = KINDS
    hold_out: float = 0.2  # share of train, where there is no validation split


class Planted(NamedTuple):
    """The planted split of a class, in memory."""

    samples: list[dict[str, Any]]  # as in the manifest; `defect` is what was planted
    dataset: Reader  # of the single split "planted"


def hosts(prepared: Prepared, hold_out: float) -> tuple[str, np.ndarray]:
    """Returns where defects are planted: a split and the numbers of its samples.

    All of validation; where a class has none, samples of train at equal distances,
    which the caller must then keep from the systems.

    Raises:
        DatasetError: train is too small, or `hold_out` is not between 0 and 1.
    """
    count = len(prepared.rows("validation"))
    if count:
        return "validation", np.arange(count)
    count = len(prepared.rows("train"))
    if not 0 < hold_out < 1:
        raise DatasetError(
            f"planted: {prepared.manifest['category']} has no validation split; the "
            f"share of train held out must be between 0 and 1, found {hold_out}"
        )
    held = max(1, round(count * hold_out))
    if held >= count:
        raise DatasetError(f"planted: {count} training samples are too few to hold out")
    logging.info("no validation split: %d of %d training samples held out", held, count)
    return "train", (np.arange(held) * count) // held


def open_planted(
    root: str | Path,
    prepared: Prepared,
    settings: Settings = Settings(),  # noqa: B008
) -> Planted:
    """Returns the planted split of a prepared class, made once and kept beside it.

    Args:
        root: folder of the classes that the class was prepared from.
        prepared: of the class.
        settings: what is planted; kinds of shape are left out where there are no
            points.

    Raises:
        DatasetError: no kind is left, a kind is unknown, or the files have changed.
    """
    kinds = _possible(prepared, settings.kinds)
    content = [VERSION, prepared.manifest["hash"], settings._replace(kinds=kinds)]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    path = prepared.folder.with_name(
        f"{prepared.folder.name}-{SPLIT}-{digest[:12]}.npz"
    )
    samples, sources = [], []
    split, numbers = hosts(prepared, settings.hold_out)
    for place, number in enumerate(numbers):
        row = prepared.rows(split)[number]
        samples.append(row | {"split": SPLIT, "label": 0})
        sources.append((row, None))
        for twin in range(settings.twins):
            kind = kinds[(place * settings.twins + twin) % len(kinds)]
            name = f"{row['stem']}-{twin}"
            own = {"defect": kind, "stem": name, "id": twin_id(row["id"], twin)}
            samples.append(row | {"split": SPLIT, "label": 1} | own)
            sources.append((row, (kind, twin)))
    arrays = _read(path, len(samples))
    if arrays is None:
        arrays = _make(root, prepared, split, sources, settings.seed)
        write_arrays(path, arrays)
    split = Held(arrays, facts_of(samples, prepared.manifest["category_index"]))
    return Planted(samples, Reader({SPLIT: lambda: split}))


def twin_id(sample: int, twin: int) -> int:
    """Returns the id of a sample's altered twin, 0 to 2**31 - 1."""
    return sample_id(hashlib.sha256(f"{sample}/{twin}".encode()).hexdigest())


def _possible(prepared: Prepared, kinds: Sequence[str]) -> tuple[str, ...]:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise DatasetError(f"planted: expected kinds of {KINDS}, found {unknown}")
    fields = prepared.manifest["fields"]
    if "rgb" not in fields and fields["xyz"][0][1] == 1:
        raise DatasetError("planted: expected images or points in rows and columns")
    possible = KINDS
    if "xyz" not in fields:
        possible, kinds = ("colour",), ["colour"] if set(kinds) & set(COLOUR) else []
    elif "rgb" not in fields:
        possible = tuple(kind for kind in KINDS if kind not in COLOUR)
    kinds = [kind for kind in kinds if kind in possible]
    if not kinds:
        raise DatasetError(f"planted: expected kinds of {possible} for this class")
    return tuple(kinds)


def _make(
    root: str | Path, prepared: Prepared, split: str, sources: list, seed: int
) -> dict[str, np.ndarray]:
    manifest = prepared.manifest
    recipe, params = RECIPES[manifest["recipe"]], manifest["params"]
    found = layout.scan(root, manifest["category"], manifest["name"])
    files = {(f.defect, f.stem): f for f in found.split(split)}
    records, loaded = [], {}
    for row, planting in sources:
        key = row["defect"], row["stem"]
        if key not in loaded:
            if key not in files:
                raise DatasetError(f"{found.root}: {split}/{'/'.join(key)} has gone")
            loaded = {key: load_sample(files[key]).sample}
        sample = loaded[key]
        if planting is not None:
            kind, twin = planting
            random = np.random.default_rng((seed, row["id"], twin))
            sample = plant(sample, kind, random)
        records.append(recipe.apply(params, sample).record)
    return {name: np.stack([r[name] for r in records]) for name in records[0]}


def _read(path: Path, count: int) -> dict[str, np.ndarray] | None:
    """Returns what was kept before, None where it is not there or damaged."""
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path)
    except UnreadableError as error:
        logging.warning("%s; it is made anew", error)
        return None
    return arrays if len(arrays.get("mask", ())) == count else None
