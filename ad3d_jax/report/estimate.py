"""The part of a page that tells how well a detector finds planted defects."""

from collections.abc import Mapping

from ad3d_jax.report.glossary import METRICS
from ad3d_jax.report.markup import gap, number, paragraph, section, table


def estimate_section(estimate: Mapping) -> str:
    """Returns the values on planted defects with their intervals, kind by kind."""
    level, found = estimate["interval"]["level"], estimate["kinds"]
    rows = [
        [kind, *map(interval, values.values())]
        for kind, values in {**found, "mean": estimate["mean"]}.items()
    ]
    words = (
        f"These are {estimate['what']}. {estimate['hosts']} good samples are their "
        f"hosts; intervals hold {100 * level:g} % of a bootstrap over hosts. They are "
        "those of the trial that was chosen as the best of several, so that they "
        "flatter it a little."
    )
    heads = ["kind", *(METRICS[name].name for name in estimate["mean"])]
    return section(
        "estimate",
        "How well it will find defects: an estimate",
        paragraph(words),
        table(heads, rows, range(1, len(heads))),
        *(gap(f"{name}: {why}.") for name, why in estimate["notes"].items()),
    )


def interval(entry: Mapping[str, float | None]) -> str:
    """Returns a value and its interval."""
    if entry["low"] is None:
        return number(entry["value"], 3)
    low, high = (number(entry[name], 3) for name in ("low", "high"))
    return f"{number(entry['value'], 3)} ({low} to {high})"
