"""The tables of a grid as files: Markdown, CSV, an HTML page and LaTeX.

What is missing is a dash, with its reason below the table.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ad3d_jax.experiment.cells import read_grid
from ad3d_jax.experiment.tables import MEAN, METRICS, Row, table
from ad3d_jax.report import markup
from ad3d_jax.report.markup import DASH, STYLE
from ad3d_jax.workdir import names
from ad3d_jax.workdir.atomic import write_text
from ad3d_jax.workdir.csv_files import as_csv


def write_tables(folder: Path) -> list[Path]:
    """Writes table.md, table.csv, table.html and table.tex and returns their paths.

    Raises:
        ValueError: the folder holds no grid, or a file of it is damaged.
    """
    tables = {metric: table(folder, metric) for metric in METRICS}
    written = {
        names.TABLE_MARKDOWN: markdown(folder, tables),
        names.TABLE_CSV: comma_separated(tables),
        names.TABLE_PAGE: page(folder, tables),
        names.TABLE_LATEX: latex(folder, tables),
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
    for system, settings in grid["settings"].items():
        conditions += f"; {system} with {', '.join(settings)}"
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


def latex(folder: Path, tables: Mapping[str, Sequence[Row]]) -> str:
    """Returns the tables for LaTeX's package booktabs; the best of ours are bold."""
    common = markup.latex(caption(read_grid(folder)))
    out = [r"% For a document with \usepackage{booktabs}."]
    for metric, rows in tables.items():
        places = columns(read_grid(folder), rows)
        heads = [markup.latex(name) for name in lines(folder, rows)[0]]
        largest = {place: best(rows, *place) for place in places}
        out += ["", r"\begin{table}", r"\centering"]
        out += [rf"\caption{{{markup.latex(METRICS[metric])}. {common}}}"]
        out += [rf"\label{{tab:{metric}}}"]
        out += [rf"\begin{{tabular}}{{l{'r' * len(places)}}}", r"\toprule"]
        out += [rf"{' & '.join(heads)} \\", r"\midrule"]
        for row in rows:
            cells = [latex_cell(row, *place, largest[place]) for place in places]
            out += [rf"{' & '.join([markup.latex(row.system), *cells])} \\"]
        out += [r"\bottomrule", r"\end{tabular}"]
        out += [rf"\par\footnotesize {markup.latex(words)}" for words in gaps(rows)]
        out += [r"\end{table}"]
    return "\n".join(out) + "\n"


def latex_cell(row: Row, category: str, published: bool, largest: str | None) -> str:
    """Returns one place, bold where it is the largest."""
    words = markup.latex(said(row, category, published))
    bold = largest is not None and shown(row, category, published) == largest
    return rf"\textbf{{{words}}}" if bold else words


def best(rows: Sequence[Row], category: str, published: bool) -> str | None:
    """Returns the largest of our means as it is shown, None where none is compared."""
    found = [shown(row, category, published) for row in rows]
    means = [mean for mean in found if mean is not None]
    return max(means) if len(means) > 1 else None


def shown(row: Row, category: str, published: bool) -> str | None:
    """Returns our mean as it is shown, None where there is none."""
    mean = None if published else row.ours[category].mean
    return None if mean is None else f"{mean:.3f}"


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
