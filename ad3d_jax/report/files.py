"""Reads what a run left in its workdir; what cannot be read becomes a sentence."""

import csv
import json
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def file_stem(defect: str, stem: str) -> str:
    """Returns a sample's name in `maps`, one for each (defect, stem).

    Odd characters, and the underscores of `stem`, become % and their code.
    """

    def plain(text: str, odd: str) -> str:
        return re.sub(odd, lambda match: f"%{ord(match[0]):x}", text)

    return plain(defect, r"[^\w.-]") + "_" + plain(stem, r"[^\w.-]|_")


class Row(NamedTuple):
    """One line of scores.csv."""

    category: str
    defect: str
    stem: str
    id: str
    label: int  # 1 = anomalous
    score: float  # NaN if not recorded
    seconds: float  # NaN if not recorded

    @property
    def name(self) -> str:
        """Stem of the sample's files."""
        return file_stem(self.defect, self.stem)


class Sample(NamedTuple):
    """One file of maps/samples."""

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
    config = read_object(workdir / "config.json", gaps)
    metrics = read_object(workdir / "metrics.json", gaps)
    rows = read_scores(workdir / "scores.csv", gaps)
    maps, masks = read_maps(workdir / "maps", rows, gaps)
    samples = read_samples(workdir / "maps" / "samples", gaps)
    train, events = read_log(workdir / "log.jsonl", gaps)
    gaps += absent_categories(config, rows)
    return Run(config, metrics, rows, maps, masks, samples, train, events, tuple(gaps))


def read_object(path: Path, gaps: list[str]) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} and a gap."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        gaps.append(f"{path.name} cannot be read: {reason(error)}.")
        return {}
    if not isinstance(found, dict):
        gaps.append(f"{path.name} does not hold a JSON object.")
        return {}
    return found


def read_scores(path: Path, gaps: list[str]) -> tuple[Row, ...]:
    """Returns the rows of scores.csv in order; broken lines are gaps."""
    rows: list[Row] = []
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for number, line in enumerate(csv.DictReader(lines), start=2):
                try:
                    rows.append(to_row(line))
                except (KeyError, ValueError, TypeError, AttributeError) as error:
                    gaps.append(f"{path.name}, line {number}: {reason(error)}.")
    except (OSError, ValueError, csv.Error) as error:
        gaps.append(f"{path.name} cannot be read: {reason(error)}.")
    silent = [row.name for row in rows if math.isnan(row.score)]
    if silent:
        gaps.append(f"scores.csv has no score for {listed(silent)}.")
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        gaps.append(f"More than one line of scores.csv is about {listed(twice)}.")
    if not rows:
        gaps.append("scores.csv holds no sample.")
    return tuple(rows)


def to_row(line: dict[str, str]) -> Row:
    """Returns a typed row; raises KeyError or ValueError where a column is wrong."""
    if line["label"] not in ("0", "1"):
        raise ValueError(f"expected label 0 or 1, found {line['label']!r}")
    return Row(
        category=line["category"],
        defect=line["defect"],
        stem=line["stem"],
        id=line["id"],
        label=int(line["label"]),
        score=float(line["score"].strip() or "nan"),
        seconds=float((line.get("seconds") or "").strip() or "nan"),
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns all arrays of an npz file; raises one of UNREADABLE."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def read_maps(
    folder: Path, rows: tuple[Row, ...], gaps: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns map and mask of each row by name; a row without them is a gap."""
    maps, masks, failed = {}, {}, []
    for row in rows:
        try:
            arrays = read_arrays(folder / f"{row.name}.npz")
            map, mask = without_channel(arrays["map"]), without_channel(arrays["mask"])
            if map.ndim != 2 or mask.ndim != 2:
                raise ValueError(f"expected [H,W], found {map.shape}, {mask.shape}")
            maps[row.name] = map.astype(np.float32)
            masks[row.name] = mask.astype(bool)
        except UNREADABLE as error:
            failed.append(f"{row.name} ({reason(error)})")
    if failed:
        gaps.append(
            f"{len(failed)} of {len(rows)} anomaly maps are missing or cannot be read, "
            f"so no pixel-level curve is drawn: {listed(failed)}."
        )
    return maps, masks


def without_channel(array: np.ndarray) -> np.ndarray:
    """Returns [H,W] from [H,W,1], all else as it is."""
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def read_samples(folder: Path, gaps: list[str]) -> tuple[Sample, ...]:
    """Returns the chosen samples sorted by name; unreadable ones are gaps."""
    samples = []
    for path in sorted(folder.glob("*.npz")):
        try:
            samples.append(Sample(path.stem, read_arrays(path)))
        except UNREADABLE as error:
            gaps.append(f"The sample {path.name} cannot be read: {reason(error)}.")
    return tuple(samples)


def read_log(
    path: Path, gaps: list[str]
) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """Returns the train records of log.jsonl and all others; broken lines are counted.

    A run that was killed and resumed logs some steps twice: the later record holds.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        gaps.append(f"log.jsonl cannot be read: {reason(error)}.")
        return (), ()
    train, events, broken = {}, [], 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
        except ValueError:
            broken += 1
            continue
        kind = record.get("kind") if isinstance(record, dict) else None
        step = record.get("step") if kind == "train" else None
        if isinstance(step, int):
            train[str(record.get("phase", "")), step] = record
        elif kind is not None and kind != "train":
            events.append(record)
        else:
            broken += 1
    if broken:
        gaps.append(f"Lines of log.jsonl that are no records, left out: {broken}.")
    ordered = sorted(train, key=lambda at: at[1])
    return tuple(train[at] for at in ordered), tuple(events)


def absent_categories(config: dict[str, Any], rows: tuple[Row, ...]) -> list[str]:
    """Returns a gap for each category that was asked for and has no score."""
    data = config.get("data")
    asked = data.get("category") if isinstance(data, dict) else None
    names = asked if isinstance(asked, list) else [asked] if asked else []
    seen = {row.category for row in rows}
    return [
        f"The category {name} was asked for and has no score."
        for name in names
        if rows and str(name) not in seen
    ]


def reason(error: Exception) -> str:
    """Returns what went wrong in a few words, on one line."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r} in it"
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__


def listed(names: list[str], most: int = 5) -> str:
    """Returns names joined by commas, cut off after some."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
