"""Training curves and events, as logged."""

import json
from typing import Any

import numpy as np

from ad3d_jax.report import charts, codebooks, markup
from ad3d_jax.report.glossary import LOGGED
from ad3d_jax.report.markup import figure, gap, section, text

BOOK_KEEPING = ("kind", "phase", "step", "time", "non_finite")
MOST_EVENTS = 200


def training_section(train: tuple[dict[str, Any], ...], config: dict[str, Any]) -> str:
    """Returns the curves of each phase; a phase is shown in the order of its log."""
    if not train:
        return section("training", "Training", gap("No training step was logged."))
    phases = dict.fromkeys(str(record.get("phase", "")) for record in train)
    return section(
        "training", "Training", *(phase(name, train, config) for name in phases)
    )


def phase(name: str, train: tuple[dict[str, Any], ...], config: dict[str, Any]) -> str:
    """Returns the curves of one phase, and sentences on what needs words.

    These are codebooks, and values that are no numbers.
    """
    records = [r for r in train if str(r.get("phase", "")) == name]
    names = dict.fromkeys(
        key for record in records for key in record if key not in BOOK_KEEPING
    )
    steps, values, gaps = {}, {}, []
    for key in names:
        logged = [(r["step"], number_or_nan(r[key])) for r in records if key in r]
        series = np.array([value for _, value in logged])
        broken = int((~np.isfinite(series)).sum())
        if broken:
            gaps.append(f"{key} is no number in {broken} of {len(series)} records.")
        if broken < len(series):
            steps[key] = np.array([step for step, _ in logged])
            values[key] = np.where(np.isfinite(series), series, np.nan)
    title = f"<h3>{text(name or 'unnamed phase')}</h3>"
    if not values:
        return title + gap("No number was logged.") + "".join(map(gap, gaps))
    last = int(records[-1]["step"])
    chart = figure(
        markup.png(charts.training_chart(steps, values)),
        f"{name}: {len(records)} records up to step {last}.",
    )
    explained = {n: words for n in values if (words := meaning(n))}
    return "".join(
        (
            title,
            chart,
            markup.definitions(explained) if explained else "",
            codebooks.sentences(records[-1], codebooks.size(config)),
            *map(gap, gaps),
        )
    )


def meaning(name: str) -> str:
    """Returns what a logged value says, "" where it has no entry in the glossary."""
    known = (term for start, term in LOGGED.items() if name.startswith(start))
    return next(known, "")


def number_or_nan(value: object) -> float:
    """Returns a logged value as a float; NaN for anything that is no number."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if numeric else float("nan")


def events_section(events: tuple[dict[str, Any], ...]) -> str:
    """Returns the logged events, folded away."""
    if not events:
        return ""
    lines = [json.dumps(event, ensure_ascii=False) for event in events[-MOST_EVENTS:]]
    left = len(events) - len(lines)
    words = [gap(f"The first {left} events are left out.")] if left else []
    body = "\n".join(text(line) for line in lines)
    return section(
        "events",
        "Events",
        *words,
        f"<details><summary>{len(lines)} events</summary><pre>{body}</pre></details>",
    )
