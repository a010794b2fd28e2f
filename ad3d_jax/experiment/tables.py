"""What stands in the tables of a grid, from its files alone.

A grid's folder holds grid.json and a metrics.json a cell. Classes are columns; ours is
the mean over seeds, with the sample standard deviation where there are several; the
published figure stands in a column of its own. A system that was run with random
weights, too, has a row for them below its own.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ad3d_jax.experiment.cells import cell_folder, read_cell, read_grid

MEAN = "mean"
RANDOM = "random weights"
PUBLISHED = Path(__file__).with_name("published.csv")
LIGHT = "cpu"  # a light setting stands beside what the full one published
METRICS = {
    "i_auroc": "I-AUROC",
    "p_auroc": "P-AUROC",
    "aupro_30": "AUPRO@0.3",
    "aupro_30_compat": "AUPRO@0.3, 100 thresholds",
    "i_ap": "I-AP",
    "p_ap": "P-AP",
}


class Entry(NamedTuple):
    """What stands at one place of a table."""

    mean: float | None
    spread: float | None  # sample standard deviation over seeds, None below two
    seeds: int
    note: str  # why there is nothing, or less than asked


class Row(NamedTuple):
    """A system in one metric."""

    system: str  # its name, with RANDOM behind it where its weights were random
    ours: Mapping[str, Entry]  # category, and the mean over all of them
    published: Mapping[str, tuple[float, str]]  # category -> value, source


def table(folder: Path, metric: str) -> list[Row]:
    """Returns the rows of one metric."""
    grid = read_grid(folder)
    published = read_published(grid["dataset"], metric)
    rows = []
    for system in grid["systems"]:
        of_papers = published_of(published, system)
        rows.append(Row(system, ours(folder, grid, system, metric), of_papers))
        if system in grid["controls"]:
            found = ours(folder, grid, system, metric, control=True)
            rows.append(Row(f"{system} ({RANDOM})", found, {}))
    return rows


def ours(
    folder: Path, grid: dict, system: str, metric: str, control: bool = False
) -> dict[str, Entry]:
    """Returns a system's entry of each category and of their mean."""
    values: dict[str, dict[int, float]] = {c: {} for c in grid["categories"]}
    reasons: dict[str, list[str]] = {c: [] for c in grid["categories"]}
    for category in grid["categories"]:
        for seed in grid["seeds"]:
            place = folder / cell_folder(system, category, seed, control)
            metrics, why = read_cell(place, grid["mask_size"])
            if metrics is not None and metrics.get(metric) is None:
                why = metrics["notes"].get(metric, "not measured")
            if why:
                reasons[category].append(f"seed {seed}: {why}")
            else:
                values[category][seed] = metrics[metric]
    entries = {c: entry(list(values[c].values()), reasons[c]) for c in values}
    whole = [s for s in grid["seeds"] if all(s in values[c] for c in values)]
    means = [float(np.mean([values[c][s] for c in values])) for s in whole]
    left = len(grid["seeds"]) - len(whole)
    entries[MEAN] = entry(means, [f"{left} seeds lack a class"] if left else [])
    return entries


def entry(values: Sequence[float], reasons: Sequence[str]) -> Entry:
    """Returns mean and spread over seeds."""
    mean = float(np.mean(values)) if values else None
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Entry(mean, spread, len(values), "; ".join(reasons))


def read_published(
    dataset: str, metric: str
) -> dict[str, dict[str, tuple[float, str]]]:
    """Returns system -> category -> (value, source)."""
    found: dict[str, dict[str, tuple[float, str]]] = {}
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if (line["dataset"], line["metric"]) == (dataset, metric):
                place = found.setdefault(line["system"], {})
                place[line["category"]] = (float(line["value"]), line["source"])
    return found


def published_of(published: Mapping[str, dict], system: str) -> dict:
    """Returns what was published of a system; a light setting counts as the full."""
    file, _, variant = system.partition(":")
    words = "+".join(word for word in variant.split("+") if word not in ("", LIGHT))
    return published.get(f"{file}:{words}" if words else file, {})
