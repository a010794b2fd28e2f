"""The tables of the experiment, in Markdown, made of its cells alone."""

import math
from collections.abc import Callable, Iterator, Sequence

from experiments.benchmarks.selection import agreement
from experiments.benchmarks.selection.agreement import Cells, Choice, Correlation
from experiments.benchmarks.selection.grids import GRIDS
from experiments.benchmarks.selection.values import METRICS

TITLES = {"aupro_30": "AUPRO", "p_ap": "P-AP", "i_auroc": "I-AUROC"}
ESTIMATED = ("aupro_30", "i_auroc")  # what planted values estimate
LEAST = 3  # settings of a group that is ranked
ALL = "all systems"
Groups = dict[tuple[str, str], Cells]  # (class, system) -> its cells


def page(cells: Cells) -> str:
    """Returns all tables; a sentence where no group has enough settings."""
    groups = dict(grouped(cells))
    if not groups:
        return f"No class and system has {LEAST} settings yet.\n"
    parts = [
        ("Over the grids of a class", summary(groups)),
        ("Rankings", rankings(groups)),
        ("Choices", choices(groups)),
        ("Kinds", kinds(groups)),
    ]
    return "\n".join(f"### {title}\n\n{table}" for title, table in parts)


def grouped(cells: Cells) -> Iterator[tuple[tuple[str, str], Cells]]:
    """Yields the cells of each class and system, then those of all its systems."""
    for category in dict.fromkeys(cell["category"] for cell in cells):
        own = [cell for cell in cells if cell["category"] == category]
        systems = list(dict.fromkeys(cell["system"] for cell in own))
        parts = [(s, [cell for cell in own if cell["system"] == s]) for s in systems]
        if len(systems) > 1:
            parts.append((ALL, own))
        for name, some in parts:
            if len(some) >= LEAST:
                yield (category, name), some


def summary(groups: Groups) -> str:
    """Returns what holds over the grids of each class, one by one system."""
    heads = [
        "class",
        "grids",
        "least ρ AUPRO",
        *(f"mean ρ {TITLES[n]}" for n in METRICS),
    ]
    for name in ESTIMATED:
        heads += [f"greatest regret {TITLES[name]}", "mean", "mean, usual"]
    lines = []
    for category in dict.fromkeys(category for category, _ in groups):
        own = [
            (cells, agreement.common_kinds(cells))
            for (name, system), cells in groups.items()
            if name == category and system != ALL
        ]
        rhos = {n: [agreement.correlation(*x, n).rho for x in own] for n in METRICS}
        known = {n: [x for x in rhos[n] if x is not None] for n in METRICS}
        line = [category, str(len(own)), _of(min, known["aupro_30"])]
        line += [_of(_mean, known[name]) for name in METRICS]
        for name in ESTIMATED:
            found = [agreement.choice(*x, name) for x in own]
            regrets = [x.best - x.chosen for x in found]
            usual = [x.best - x.usual for x in found if x.usual is not None]
            line += [_of(max, regrets), _of(_mean, regrets), _of(_mean, usual)]
        lines.append(line)
    return _table(heads, lines)


def rankings(groups: Groups) -> str:
    """Returns the correlations, with the distance of planted from real values."""
    heads = ["class", "system", "settings", *(f"ρ {TITLES[n]}" for n in METRICS)]
    heads += [f"distance {TITLES[n]}" for n in ESTIMATED]
    lines = []
    for (category, system), cells in groups.items():
        kinds = agreement.common_kinds(cells)
        found = (agreement.correlation(cells, kinds, name) for name in METRICS)
        far = (agreement.distance(cells, kinds, name) for name in ESTIMATED)
        line = [category, system, _count(cells), *map(_correlation, found)]
        lines.append([*line, *map(_figure, far)])
    return _table(heads, lines)


def choices(groups: Groups) -> str:
    """Returns what is chosen, and how much the best of the grid is above it."""
    heads = ["class", "system", "chosen by planted defects"]
    for name in ESTIMATED:
        heads += [f"best {TITLES[name]}", *("− chosen", "− usual", "− random")]
    lines = []
    for (category, system), cells in groups.items():
        kinds = agreement.common_kinds(cells)
        best = cells[agreement.chosen(cells, kinds)]
        own = f"{best['system']} " if system == ALL else ""
        line = [category, system, f"{own}{best['name']}"]
        for name in ESTIMATED:
            line += _regrets(agreement.choice(cells, kinds, name), system)
        lines.append(line)
    return _table(heads, lines)


def kinds(groups: Groups) -> str:
    """Returns by how much ρ with AUPRO falls where a kind is left out."""
    names = dict.fromkeys(
        kind for cells in groups.values() for kind in agreement.common_kinds(cells)
    )
    lines = []
    for (category, system), cells in groups.items():
        own = agreement.common_kinds(cells)
        falls = agreement.without_each(cells, own, "aupro_30")
        lines.append(
            [category, system, *(_change(falls.get(name, math.nan)) for name in names)]
        )
    return _table(["class", "system", *names], lines)


def _regrets(choice: Choice, system: str) -> list[str]:
    usual = None if system == ALL else choice.usual
    values = [choice.chosen, usual, choice.random]
    return [
        _figure(choice.best),
        *("–" if x is None else _figure(choice.best - x) for x in values),
    ]


def _correlation(found: Correlation) -> str:
    if found.rho is None:
        return "–"
    if found.low is None:
        return _figure(found.rho)
    return f"{_figure(found.rho)} ({_figure(found.low)} to {_figure(found.high)})"


def _count(cells: Cells) -> str:
    """Returns how many settings there are, and of how many if that is not all."""
    known = {cell["system"] for cell in cells} & GRIDS.keys()
    total = sum(math.prod(map(len, GRIDS[name].axes.values())) for name in known)
    return f"{len(cells)} of {total}" if len(cells) < total else str(len(cells))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _of(function: Callable[[Sequence[float]], float], values: Sequence[float]) -> str:
    """Returns a figure of several values, a dash where there is none."""
    return _figure(function(values)) if values else "–"


def _change(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}".replace("-", "−")


def _figure(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
