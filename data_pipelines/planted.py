"""Good samples with planted defects: what a study is judged on instead of the test set.

Defects are planted into what the sensor measured, before any recipe, so that every
recipe and every feature sees the same ones. The good samples that they are planted into
come from train, and stay in the split beside their altered twins. All depends on (seed,
id of the sample, kind, number of the twin) alone.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from tqdm import tqdm

from ad3d_jax.workdir.arrays import read_arrays, write_arrays
from ad3d_jax.workdir.unreadable import UnreadableError
from data_pipelines import clouds, layout
from data_pipelines.errors import DatasetError
from data_pipelines.planting import (
    KINDS,
    Scene,
    light_of,
    plant,
    possible,
    scene_of,
)
from data_pipelines.prepared import Prepared, facts_of
from data_pipelines.reader import Held, Reader
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import load_sample, measured_by, sample_id

SPLIT = "planted"
VERSION = 2  # of what is planted; a part of the name of the cache
LIT = 8  # hosts that the light of a class is estimated from


class Settings(NamedTuple):
    """What is planted."""

    seed: int = 0
    each: int = 6  # altered samples of each kind
    kinds: tuple[str, ...] = ()  # () = all that the files of the class allow
    hold_out: float = 0.2  # share of train that defects are planted into


class Planted(NamedTuple):
    """The planted split of a class, in memory."""

    samples: list[dict[str, Any]]  # as in the manifest; `defect` is what was planted
    dataset: Reader  # of the single split "planted"


class _Twin(NamedTuple):
    kind: str
    number: int


def hosts(
    prepared: Prepared, hold_out: float, reserved: Sequence[int] = ()
) -> np.ndarray:
    """Returns the numbers of the training samples that defects are planted into.

    They lie at equal distances. The caller must keep them from the systems.

    Args:
        prepared: of the class.
        hold_out: share of train, above 0 and below 1.
        reserved: numbers of training samples that serve something else, calibration
            above all.

    Raises:
        DatasetError: train is too small, or `hold_out` is not between 0 and 1.
    """
    category, count = prepared.manifest["category"], len(prepared.rows("train"))
    if not 0 < hold_out < 1:
        raise DatasetError(
            f"planted: {category}: the share of train held out must be between 0 and "
            f"1, found {hold_out}"
        )
    free = np.setdiff1d(np.arange(count), np.asarray(reserved, int))
    held = max(1, round(count * hold_out))
    if held >= len(free):
        raise DatasetError(
            f"planted: {category}: {len(free)} of {count} training samples are free, "
            f"too few to plant into {held} and fit on the others"
        )
    return free[(np.arange(held) * len(free)) // held]


def kinds_of(found: layout.Layout, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the kinds of defects that a class's files allow, of those `wanted`.

    Raises:
        DatasetError: a kind is unknown or cannot be planted, or the points are lists.
    """
    unknown = [kind for kind in wanted if kind not in KINDS]
    if unknown:
        raise DatasetError(f"planted: expected kinds of {[*KINDS]}, found {unknown}")
    files = found.samples[0]
    if files.xyz is not None and files.xyz.suffix.lower() in clouds.SUFFIXES:
        raise DatasetError("planted: expected images or points in rows and columns")
    allowed = possible(measured_by(files))
    impossible = [kind for kind in wanted if kind not in allowed]
    if impossible:
        raise DatasetError(
            f"planted: expected kinds of {[*allowed]} for {found.category}, which has "
            f"{' and '.join(sorted(measured_by(files)))}; found {impossible}"
        )
    return tuple(kind for kind in allowed if not wanted or kind in wanted)


def open_planted(
    root: str | Path,
    prepared: Prepared,
    settings: Settings = Settings(),  # noqa: B008
    reserved: Sequence[int] = (),
) -> Planted:
    """Returns the planted split of a prepared class, made once and kept beside it.

    Args:
        root: folder of the classes that the class was prepared from.
        prepared: of the class.
        settings: what is planted. The kinds follow from the files of the class, not
            from what was prepared of them for a system.
        reserved: see `hosts`.

    Raises:
        DatasetError: a kind cannot be planted, train is too small, or the files have
            changed.
    """
    manifest = prepared.manifest
    found = layout.scan(root, manifest["category"], manifest["name"])
    settings = settings._replace(kinds=kinds_of(found, settings.kinds))
    numbers = hosts(prepared, settings.hold_out, reserved)
    rows = [prepared.rows("train")[number] for number in numbers]
    plan = list(zip(rows, _twins(len(rows), settings), strict=True))
    samples = [entry for row, twins in plan for entry in _entries(row, twins)]
    content = [VERSION, manifest["hash"], settings, [row["id"] for row in rows]]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    folder = prepared.folder
    path = folder.with_name(f"{folder.name}-{SPLIT}-{digest[:12]}.npz")
    arrays = _read(path, len(samples))
    if arrays is None:
        arrays = _make(found, prepared, plan, settings.seed)
        write_arrays(path, arrays)
    split = Held(arrays, facts_of(samples, manifest["category_index"]))
    return Planted(samples, Reader({SPLIT: lambda: split}))


def twin_id(sample: int, kind: str, number: int) -> int:
    """Returns the id of a sample's altered twin, 0 to 2**31 - 1."""
    text = f"{sample}/{kind}/{number}"
    return sample_id(hashlib.sha256(text.encode()).hexdigest())


def _twins(count: int, settings: Settings) -> list[list[_Twin]]:
    """Returns what is planted into each of `count` hosts, as evenly as can be."""
    twins: list[list[_Twin]] = [[] for _ in range(count)]
    for place, kind in enumerate(settings.kinds):
        for number in range(settings.each):
            host = (place * settings.each + number) % count
            twins[host].append(_Twin(kind, number))
    return twins


def _entries(row: dict[str, Any], twins: Sequence[_Twin]) -> Iterator[dict[str, Any]]:
    """Yields a host and its twins as entries of a manifest."""
    yield row | {"split": SPLIT, "label": 0}
    for kind, number in twins:
        own = {"defect": kind, "stem": f"{row['stem']}-{number}"}
        own["id"] = twin_id(row["id"], kind, number)
        yield row | {"split": SPLIT, "label": 1} | own


def _make(
    found: layout.Layout, prepared: Prepared, plan: list, seed: int
) -> dict[str, np.ndarray]:
    manifest = prepared.manifest
    recipe, params = RECIPES[manifest["recipe"]], manifest["params"]
    files = {(f.defect, f.stem): f for f in found.split("train")}

    def scene(row: dict[str, Any]) -> Scene:
        key = row["defect"], row["stem"]
        if key not in files:
            raise DatasetError(f"{found.root}: train/{'/'.join(key)} has gone")
        return scene_of(load_sample(files[key]).sample)

    def record(sample: Sample) -> dict[str, np.ndarray]:
        # A system that sees pictures alone gets the same defects.
        if "xyz" not in manifest["fields"]:
            sample = sample._replace(xyz=None)
        return recipe.apply(params, sample).record

    light = light_of([scene(row) for row, _ in plan[:: -(-len(plan) // LIT)]])
    records = []
    for row, twins in tqdm(plan, desc="planting", leave=False, disable=None):
        host = scene(row)._replace(light=light)
        records.append(record(host.sample))
        for kind, number in twins:
            own = [seed, row["id"], [*KINDS].index(kind), number]
            records.append(record(plant(host, kind, np.random.default_rng(own))))
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
