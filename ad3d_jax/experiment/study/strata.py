"""What a trial and many trials are worth, kind by kind of planted defect.

Each kind is a stratum: its samples against all good ones. A trial's value is a weighted
mean over kinds; of trials that are compared, ranks within each kind are averaged, so
that no kind counts more because its values lie further apart.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ad3d_jax.evaluate import Scored
from ad3d_jax.metrics import exact, tables
from ad3d_jax.metrics.against import rank_against
from ad3d_jax.metrics.ranking import rank_images
from ad3d_jax.metrics.regions import label_regions
from ad3d_jax.workdir.scores import Row

Kinds = Mapping[str, Mapping[str, float | None]]  # kind -> metric -> value
METRICS = ("i_auroc", "aupro_30", "aupro_05", "p_ap")  # of each kind, that are kept
MEAN = ("i_auroc", "aupro_30")  # what the metric "mean" is the mean of
NEAR = 0.97  # where all trials reach it in a kind, the low end of a metric counts
LOW_END = {"i_auroc": "p_ap", "aupro_30": "aupro_05"}


def parts_of(metric: str) -> tuple[str, ...]:
    """Returns the metrics of which a study's metric is the mean."""
    return MEAN if metric == "mean" else (metric,)


def kinds_in(rows: Sequence[Row]) -> list[str]:
    """Returns the kinds of the planted split's defective samples, by name."""
    return sorted({row.defect for row in rows if row.label})


def measure(scored: Scored, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Returns the metrics of each kind, undefined ones None, with their notes.

    All but those of sampled thresholds; pixels of good samples are sorted once.

    Args:
        scored: the planted split.
        rows: of it; a defective one's `defect` is its kind.
    """
    good = [n for n, row in enumerate(rows) if not row.label]
    normal = np.sort(scored.maps[good].ravel())
    found = {}
    for kind in kinds_in(rows):
        own = [n for n, row in enumerate(rows) if row.defect == kind]
        numbers, labels = good + own, [rows[n].label for n in good + own]
        maps, masks = scored.maps[own], scored.masks[own]
        pixels = rank_against(normal, maps, label_regions(masks))
        images = rank_images(scored.image[numbers], np.array(labels))
        metrics = exact.measure(pixels, images)
        metrics = exact.completed(metrics, maps, masks, np.ones(len(own), int))
        del metrics.values["aupro_30_compat"]
        found[kind] = tables.to_json(metrics)
    return found


def check_weights(weights: Mapping[str, float], kinds: Sequence[str]) -> None:
    """Raises ValueError where a weight is of no planted kind, or none is above 0."""
    unknown = [kind for kind in weights if kind not in kinds]
    if unknown:
        raise ValueError(
            f"planted_weights: expected kinds of {[*kinds]}, which are planted, found "
            f"{unknown[0]!r}"
        )
    if not any(weights.get(kind, 1.0) > 0 for kind in kinds):
        raise ValueError("planted_weights: expected one above 0, found none")


def value(kinds: Kinds, metric: str, weights: Mapping[str, float]) -> float:
    """Returns a trial's value: the weighted mean over kinds of a metric.

    NaN where it is undefined for a kind that counts.

    Args:
        kinds: what was measured.
        metric: "mean", see `MEAN`, or the name of one.
        weights: of kinds, 1 where none is given.
    """
    total = 0.0
    for kind, metrics in kinds.items():
        for name in parts_of(metric) if weights.get(kind, 1.0) else ():
            found = metrics[name]
            total += weights.get(kind, 1.0) * (math.nan if found is None else found)
    count = len(parts_of(metric)) * math.fsum(weights.get(kind, 1.0) for kind in kinds)
    return total / count if count else math.nan


def undefined(kinds: Kinds, metric: str, weights: Mapping[str, float]) -> list[str]:
    """Returns the kinds that count and for which a metric is undefined."""
    return [
        kind
        for kind, metrics in kinds.items()
        if weights.get(kind, 1.0) and None in [metrics[n] for n in parts_of(metric)]
    ]


def mean_ranks(
    trials: Sequence[Kinds], metric: str, weights: Mapping[str, float]
) -> list[float]:
    """Returns the mean rank of each trial over kinds; 1 = the best in every kind.

    Where all trials reach `NEAR` in a part of the metric "mean", its low end is ranked
    in its place: AUPRO up to a false positive rate of 0.05, and the average precision
    of pixels. Equal values share the mean of their ranks.

    Args:
        trials: what was measured of each, of the same kinds; what counts is defined.
        metric: as in `value`.
        weights: as in `value`.
    """
    if not trials:
        return []
    ranks, shares = [], []
    for kind in trials[0]:
        weight = weights.get(kind, 1.0)
        for name in parts_of(metric) if weight else ():
            values = [trial[kind][name] for trial in trials]
            if metric == "mean" and min(values) >= NEAR:
                values = [trial[kind][LOW_END[name]] for trial in trials]
            ranks.append(rankdata(-np.array(values)))
            shares.append(weight)
    return np.average(ranks, axis=0, weights=shares).tolist()
