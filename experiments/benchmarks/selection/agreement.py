"""How well planted defects rank settings, and what it costs to trust them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from ad3d_jax.experiment.study import strata
from experiments.benchmarks.selection.values import METRICS

SURE = 0.95  # of an interval over draws of the real samples
COUNTED = strata.MEAN  # what the planted ranking is made of, see `strata.mean_ranks`
Cells = Sequence[Mapping[str, Any]]


class Correlation(NamedTuple):
    """Spearman's correlation; None where all settings are equal on one side."""

    rho: float | None
    low: float | None  # of the interval over draws
    high: float | None


class Choice(NamedTuple):
    """Real values of a metric over a grid."""

    best: float
    chosen: float
    usual: float | None  # None where the usual setting was not run
    random: float  # the mean over the grid: what a random choice expects


def common_kinds(cells: Cells) -> list[str]:
    """Returns the kinds of planted defects for which all cells have what counts."""
    kinds = [kind for kind in cells[0]["planted"]]
    return [
        kind
        for kind in kinds
        if all(
            kind in cell["planted"] and cell["planted"][kind][name] is not None
            for cell in cells
            for name in COUNTED
        )
    ]


def merits(cells: Cells, kinds: Sequence[str]) -> np.ndarray:
    """Returns the planted merit of each cell, [N]: minus its mean rank over kinds."""
    return -np.array(strata.mean_ranks(_planted(cells, kinds), "mean", {}))


def chosen(cells: Cells, kinds: Sequence[str]) -> int:
    """Returns the number of the cell that a study would choose.

    It has the best mean rank; of equal ones the higher planted mean, then the first.
    """
    means = [strata.value(x, "mean", {}) for x in _planted(cells, kinds)]
    order = np.lexsort((-np.array(means), -merits(cells, kinds)))
    return int(order[0])


def correlation(cells: Cells, kinds: Sequence[str], metric: str) -> Correlation:
    """Returns how the planted ranking goes with a metric of the real samples.

    The interval holds the share SURE of its values over draws of the real samples.
    """
    planted = merits(cells, kinds)
    over = np.array([cell["draws"][metric] for cell in cells], float).T
    spread = [x for x in (rho(planted, real) for real in over) if x is not None]
    if not spread:
        return Correlation(rho(planted, real_of(cells, metric)), None, None)
    low, high = np.quantile(spread, [(1 - SURE) / 2, (1 + SURE) / 2])
    return Correlation(rho(planted, real_of(cells, metric)), float(low), float(high))


def rho(one: np.ndarray, other: np.ndarray) -> float | None:
    """Returns Spearman's correlation, None where it is undefined."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def choice(cells: Cells, kinds: Sequence[str], metric: str) -> Choice:
    """Returns what the planted ranking, habit and chance choose, by a real metric."""
    real = real_of(cells, metric)
    usual = [x for x, cell in zip(real, cells, strict=True) if cell["usual"]]
    return Choice(
        best=float(real.max()),
        chosen=float(real[chosen(cells, kinds)]),
        usual=float(np.mean(usual)) if usual else None,
        random=float(real.mean()),
    )


def distance(cells: Cells, kinds: Sequence[str], metric: str) -> float:
    """Returns the mean distance of planted from real values over the settings."""
    means = [strata.value(x, metric, {}) for x in _planted(cells, kinds)]
    return float(np.mean(np.abs(np.array(means) - real_of(cells, metric))))


def without_each(cells: Cells, kinds: Sequence[str], metric: str) -> dict[str, float]:
    """Returns, of each kind, by how much the correlation falls without it.

    NaN where one of both is undefined. A kind that carries the ranking is above 0.
    """
    real = real_of(cells, metric)
    whole = rho(merits(cells, kinds), real)
    found = {}
    for kind in kinds:
        others = [other for other in kinds if other != kind]
        rest = rho(merits(cells, others), real) if others else None
        known = whole is not None and rest is not None
        found[kind] = whole - rest if known else math.nan
    return found


def real_of(cells: Cells, metric: str) -> np.ndarray:
    """Returns a metric of the real samples, [N] float64."""
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {METRICS}, found {metric!r}")
    return np.array([cell["real"][metric] for cell in cells], float)


def _planted(cells: Cells, kinds: Sequence[str]) -> list[dict[str, Any]]:
    return [{kind: cell["planted"][kind] for kind in kinds} for cell in cells]
