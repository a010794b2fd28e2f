"""Means over classes and the form in which metrics are written to files."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ad3d_jax.metrics.exact import Metrics


class ClassMean(NamedTuple):
    """Unweighted means over the classes for which a metric is defined."""

    values: dict[str, float]  # NaN where no class counts
    counted: dict[str, int]  # classes that count
    notes: dict[str, str]  # which classes were left out, and why


def mean_over_classes(classes: Mapping[str, Metrics]) -> ClassMean:
    """Returns the mean of each metric over the classes, each with equal weight.

    A class whose value is NaN is left out and named in the notes; so is a class that
    does not hold the metric at all.

    Args:
        classes: metrics by the name of the class.
    """
    names = dict.fromkeys(name for each in classes.values() for name in each.values)
    values, counted, notes = {}, {}, {}
    for name in names:
        found = {c: m.values.get(name, math.nan) for c, m in classes.items()}
        kept = [value for value in found.values() if not math.isnan(value)]
        values[name] = math.fsum(kept) / len(kept) if kept else math.nan
        counted[name] = len(kept)
        if len(kept) < len(found):
            left_out = ", ".join(
                f"{c} ({classes[c].notes.get(name, 'not measured')})"
                for c, value in found.items()
                if math.isnan(value)
            )
            notes[name] = (
                f"mean of {len(kept)} of {len(found)} classes; left out: {left_out}"
            )
    return ClassMean(values, counted, notes)


def to_json(metrics: Metrics | ClassMean) -> dict[str, Any]:
    """Returns a flat dictionary for a JSON file: undefined values are None.

    The notes follow under `notes`, and of a mean over classes how many counted under
    `counted`.
    """
    flat: dict[str, Any] = {
        name: None if math.isnan(value) else float(value)
        for name, value in metrics.values.items()
    }
    if isinstance(metrics, ClassMean):
        flat["counted"] = dict(metrics.counted)
    return flat | {"notes": dict(metrics.notes)}
