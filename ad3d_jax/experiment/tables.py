"""Makes the tables of a grid from its files alone: Markdown, CSV and an HTML page.

A grid's folder holds grid.json and a metrics.json a cell. Classes are columns; ours is
the mean over seeds, with the sample standard deviation where there are several; the
published figure stands in a column of its own. What is missing is a dash, with its
reason below the table.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ad3d_jax.experiment.cells import cell_folder, read_cell, read_grid
from ad3d_jax.report import markup
from ad3d_jax.report.markup import DASH, STYLE
from ad3d_jax.workdir import names
from ad3d_jax.workdir.atomic import write_text
from ad3d_jax.workdir.csv_files import as_csv

MEAN = "mean"
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

    system: str
    ours: Mapping[str, Entry]  # category, and the mean over all of them
    published: Mapping[str, tuple[float, str]]  # category -> value, source


def table(folder: Path, metric: str) -> list[Row]:
    """Returns the rows of one metric."""
    grid = read_grid(folder)
    published = read_published(grid["dataset"], metric)
    return [
        Row(system, ours(folder, grid, system, metric), published_of(published, system))
        for system in grid["systems"]
    ]


def ours(folder: Path, grid: dict, system: str, metric: str) -> dict[str, Entry]:
    """Returns a system's entry of each category and of their mean."""
    values: dict[str, dict[int, float]] = {c: {} for c in grid["categories"]}
    reasons: dict[str, list[str]] = {c: [] for c in grid["categories"]}
    for category in grid["categories"]:
        for seed in grid["seeds"]:
            place = folder / cell_folder(system, category, seed)
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


# --- Files ----------------------------------------------------------------------------


def write_tables(folder: Path) -> list[Path]:
    """Writes table.md, table.csv and table.html and returns their paths.

    Raises:
        ValueError: the folder holds no grid, or a file of it is damaged.
    """
    tables = {metric: table(folder, metric) for metric in METRICS}
    written = {
        names.TABLE_MARKDOWN: markdown(folder, tables),
        names.TABLE_CSV: comma_separated(tables),
        names.TABLE_PAGE: page(folder, tables),
    }
    paths = []
    for name, content in written.items():
        paths.append(folder / name)
        write_text(paths[-1], content)
    return paths


def columns(grid: dict, rows: Sequence[Row]) -> list[tuple[str, bool]]:
    """Returns (category, is published) of each column; empty ones are left out."""
    several = len(grid["categories"]) > 1
    places = [*grid["categories"], *([MEAN] if several else [])]
    return [
        (place, published)
        for place in places
        for published in (False, True)
        if not published or any(place in row.published for row in rows)
    ]


def said(row: Row, category: str, published: bool) -> str:
    """Returns the text of one place."""
    if published:
        found = row.published.get(category)
        return DASH if found is None else f"{found[0]:.3f}"
    here = row.ours[category]
    if here.mean is None:
        return DASH
    return f"{here.mean:.3f}" + ("" if here.spread is None else f" ± {here.spread:.3f}")


def lines(folder: Path, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Returns the heads and the rows of a table as text."""
    places = columns(read_grid(folder), rows)
    heads = [head(*place) for place in places]
    body = [[row.system, *(said(row, *place) for place in places)] for row in rows]
    return ["system", *heads], body


def head(place: str, published: bool) -> str:
    """Returns the name of a column; papers average over all classes of a data set."""
    if not published:
        return place
    return f"{'mean of all classes' if place == MEAN else place} (published)"


def gaps(rows: Sequence[Row]) -> list[str]:
    """Returns one sentence for each place that has less than was asked."""
    return [
        f"{row.system}, {category}: {here.note}"
        for row in rows
        for category, here in row.ours.items()
        if here.note and category != MEAN
    ]


def caption(grid: dict) -> str:
    """Returns what all tables of a grid have in common."""
    seeds = len(grid["seeds"])
    spread = ", mean ± sample standard deviation" if seeds > 1 else ""
    conditions = f"; {', '.join(grid['overrides'])}" if grid["overrides"] else ""
    return (
        f"Data: {grid['dataset']}; maps of {grid['mask_size']} pixels; "
        f"{seeds} seed{'s' if seeds > 1 else ''} of training{spread}{conditions}."
    )


def markdown(folder: Path, tables: Mapping[str, Sequence[Row]]) -> str:
    """Returns the tables as Markdown."""
    out = [markup.markdown(caption(read_grid(folder))), ""]
    for metric, rows in tables.items():
        heads, body = lines(folder, rows)
        heads = [markup.markdown(name) for name in heads]
        body = [[markup.markdown(words) for words in row] for row in body]
        out += [f"**{METRICS[metric]}**", "", f"| {' | '.join(heads)} |"]
        out += ["|---" * len(heads) + "|"]
        out += [f"| {' | '.join(row)} |" for row in body] + [""]
        out += [f"- {DASH} {markup.markdown(reason)}" for reason in gaps(rows)]
        out += [""] if gaps(rows) else []
    return "\n".join(out)


def comma_separated(tables: Mapping[str, Sequence[Row]]) -> str:
    """Returns one line for each system, category and metric."""
    heads = "system metric category ours spread seeds note published source".split()
    out = []
    for metric, rows in tables.items():
        for row in rows:
            for category, here in row.ours.items():
                numbers = [here.mean, here.spread, here.seeds, here.note]
                published = row.published.get(category, (None, None))
                out.append([row.system, metric, category, *numbers, *published])
    return as_csv(heads, out, end="\n")


def page(folder: Path, tables: Mapping[str, Sequence[Row]]) -> str:
    """Returns the tables as one self-contained page."""
    out = []
    for metric, rows in tables.items():
        heads, body = lines(folder, rows)
        head = "".join(f"<th>{markup.text(name)}</th>" for name in heads)
        out += [f"<section><h2>{METRICS[metric]}</h2><div class='wide'><table>"]
        out += [f"<thead><tr>{head}</tr></thead><tbody>"]
        for row, said_of in zip(rows, body, strict=True):
            places = columns(read_grid(folder), rows)
            cells = [f"<th>{markup.text(said_of[0])}</th>"]
            for place, words in zip(places, said_of[1:], strict=True):
                note = markup.text(title(row, *place))
                cells.append(f'<td class="number" title="{note}">{words}</td>')
            out += [f"<tr>{''.join(cells)}</tr>"]
        out += ["</tbody></table></div>"]
        out += [f"<p class='gap'>{markup.text(reason)}</p>" for reason in gaps(rows)]
        out += ["</section>"]
    common = markup.text(caption(read_grid(folder)))
    name = markup.text(folder.resolve().name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{name}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{name}</h1><p>{common}</p>{''.join(out)}</main></body></html>"
    )


def title(row: Row, category: str, published: bool) -> str:
    """Returns what a place says when it is pointed at."""
    if published:
        return row.published.get(category, (None, "not published"))[1]
    here = row.ours[category]
    return here.note or f"{here.seeds} seed{'s' if here.seeds > 1 else ''}"


def put_into(readme: Path, name: str, content: str) -> None:
    """Replaces the results of a grid in a text.

    Raises:
        ValueError: the text has no place for them.
    """
    text = readme.read_text(encoding="utf-8")
    begin, end = f"<!-- results of {name} -->", "<!-- end of results -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{readme}: expected the lines {begin!r} and {end!r}")
    block = f"{begin}\n{content.strip()}\n\n{end}"
    write_text(readme, pattern.sub(lambda _: block, text, count=1))
