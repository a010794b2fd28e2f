"""All that the report is made from; what cannot be read becomes a sentence."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ad3d_jax.workdir import json_files, log, maps, names, scores
from ad3d_jax.workdir.arrays import read_arrays
from ad3d_jax.workdir.scores import Row
from ad3d_jax.workdir.unreadable import UnreadableError


class Sample(NamedTuple):
    """A sample that is shown, with all its arrays."""

    name: str
    arrays: dict[str, np.ndarray]


class Run(NamedTuple):
    """All that the report is made from."""

    config: dict[str, Any]
    metrics: dict[str, Any]
    rows: tuple[Row, ...]
    maps: dict[str, np.ndarray]  # name -> float32 [H,W]
    masks: dict[str, np.ndarray]  # name -> bool [Hm,Wm]
    samples: tuple[Sample, ...]
    train: tuple[dict[str, Any], ...]
    events: tuple[dict[str, Any], ...]
    gaps: tuple[str, ...]  # what is missing, in sentences


def read_run(workdir: Path) -> Run:
    """Reads a workdir; missing and unreadable files are told in `gaps`."""
    gaps: list[str] = []
    config = read_object(workdir / names.CONFIG, gaps)
    metrics = read_object(workdir / names.METRICS, gaps)
    rows = read_scores(workdir / names.SCORES, gaps)
    found, masks = read_maps(workdir / names.MAPS, rows, gaps)
    samples = read_samples(workdir / names.SAMPLES, gaps)
    train, events = read_log(workdir / names.LOG, gaps)
    gaps += absent_categories(config, rows)
    return Run(
        *(config, metrics, rows, found, masks, samples, train, events),
        gaps=tuple(gaps),
    )


def read_object(path: Path, gaps: list[str]) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} and a gap."""
    try:
        return json_files.read_json(path)
    except UnreadableError as error:
        gaps.append(f"{path.name} cannot be read: {error.reason}.")
        return {}


def read_scores(path: Path, gaps: list[str]) -> tuple[Row, ...]:
    """Returns the rows of scores.csv in order; broken lines are gaps."""
    rows: list[Row] = []
    left_out: list[str] = []
    try:
        rows = scores.read_scores(path, left_out)
    except UnreadableError as error:
        gaps.append(f"{path.name} cannot be read: {error.reason}.")
    gaps += [f"{path.name}, {fault}." for fault in left_out]
    silent = [row.name for row in rows if math.isnan(row.score)]
    if silent:
        gaps.append(f"{path.name} has no score for {listed(silent)}.")
    every = [row.name for row in rows]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        gaps.append(f"More than one line of {path.name} is about {listed(twice)}.")
    if not rows:
        gaps.append(f"{path.name} holds no sample.")
    return tuple(rows)


def read_maps(
    folder: Path, rows: tuple[Row, ...], gaps: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns map and mask of each row by name; a row without them is a gap."""
    found, masks, failed = {}, {}, []
    for row in rows:
        try:
            found[row.name], masks[row.name] = maps.read_map(folder, row)
        except UnreadableError as error:
            failed.append(f"{row.name} ({error.reason})")
    if failed:
        gaps.append(
            f"{len(failed)} of {len(rows)} anomaly maps are missing or cannot be read, "
            f"so no pixel-level curve is drawn: {listed(failed)}."
        )
    return found, masks


def read_samples(folder: Path, gaps: list[str]) -> tuple[Sample, ...]:
    """Returns the chosen samples sorted by name; unreadable ones are gaps."""
    samples = []
    for path in maps.files(folder):
        try:
            samples.append(Sample(path.stem, read_arrays(path)))
        except UnreadableError as error:
            gaps.append(f"The sample {path.name} cannot be read: {error.reason}.")
    return tuple(samples)


def read_log(
    path: Path, gaps: list[str]
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """Returns the train records of log.jsonl and all others; broken lines are counted.

    A run that was killed and resumed logs some steps twice: the later record holds.
    """
    left_out: list[str] = []
    try:
        records = log.read_log(path, left_out)
    except UnreadableError as error:
        gaps.append(f"{path.name} cannot be read: {error.reason}.")
        return (), ()
    train, events, broken = {}, [], len(left_out)
    for record in records:
        step = record.get("step")
        if record["kind"] != "train":
            events.append(record)
        elif isinstance(step, int):
            train[str(record.get("phase", "")), step] = record
        else:
            broken += 1
    if broken:
        gaps.append(f"Lines of {path.name} that are no records, left out: {broken}.")
    ordered = sorted(train, key=lambda at: at[1])
    return tuple(train[at] for at in ordered), tuple(events)


def absent_categories(config: dict[str, Any], rows: tuple[Row, ...]) -> list[str]:
    """Returns a gap for each category that was asked for and has no score."""
    data = config.get("data")
    asked = data.get("category") if isinstance(data, dict) else None
    wanted = asked if isinstance(asked, list) else [asked] if asked else []
    seen = {row.category for row in rows}
    return [
        f"The category {name} was asked for and has no score."
        for name in wanted
        if rows and str(name) not in seen
    ]


def listed(every: list[str], most: int = 5) -> str:
    """Returns names joined by commas, cut off after some."""
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest
