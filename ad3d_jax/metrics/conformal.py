"""Conformal p-values and thresholds from the scores of good samples.

A good sample is exchangeable with the n good samples that calibrate, so that its rank
among them is uniform: of good samples at most the share `alpha` gets a p-value of
`alpha` or less, whatever the system is and however it was fitted, as long as it was
fitted without them (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random
World", 2005; Bates et al., "Testing for outliers with conformal p-values", Annals of
Statistics 2023). For one calibration set the rate is not `alpha` but a draw of a Beta
distribution whose mean is at most `alpha`, see `false_alarms`.

Cross-conformal p-values, where each of K models scores the samples that it was fitted
without, hold with a weaker bound: at most 2 alpha + 2 (1 - 1/K) / (n/K + 1), see
`bound` (Vovk, "Cross-conformal predictors", 2015; Barber et al., "Predictive inference
with the jackknife+", Annals of Statistics 2021, theorem 4).
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import stats


def exceeding(good: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns how many of `good` [n] are at least as large as each score, [...]."""
    good = np.sort(good)
    return len(good) - np.searchsorted(good, scores, side="left")


def p_values(good: np.ndarray, fold: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns (1 + number of good scores at least as large) / (n + 1).

    Args:
        good: [n] scores of good samples.
        fold: [n] the model that gave each of them, 0 to K - 1.
        scores: [K,...] what each model gives to new samples; NaN is refused.

    Returns:
        [...] float64 in (0, 1].

    Raises:
        ValueError: a score is NaN.
    """
    if np.isnan(good).any() or np.isnan(scores).any():
        raise ValueError("p-value: expected numbers as scores, found NaN")
    counts = [exceeding(good[fold == k], own) for k, own in enumerate(scores)]
    return (1 + np.sum(counts, axis=0)) / (len(good) + 1)


def rejected(p_values: np.ndarray, count: int, alpha: float) -> np.ndarray:
    """Returns where p-values from `count` good scores are at most `alpha`, exactly."""
    return np.rint(p_values * (count + 1)) <= _ranks(count, alpha)


def threshold(good: np.ndarray, alpha: float) -> float | None:
    """Returns the score above which a p-value is at most `alpha`.

    It is the ⌈(n + 1)(1 - alpha)⌉-th smallest of `good` [n]; None where there are too
    few for `alpha`.
    """
    ranks = _ranks(len(good), alpha)
    return float(np.sort(good)[len(good) - ranks]) if ranks else None


def smallest_alpha(count: int) -> float:
    """Returns the smallest rate for which `count` good scores give a threshold."""
    return 1 / (count + 1)


def bound(count: int, folds: int, alpha: float) -> float:
    """Returns what the share of false alarms is at most, in the mean over fits.

    Args:
        count: of good scores.
        folds: models that gave them; 1 = one that was fitted without any of them.
        alpha: the rate that was chosen.
    """
    if folds == 1:
        return alpha
    slack = 2 * (1 - 1 / folds) / (count / folds + 1)
    other = (1 - folds / count) / (folds + 1)
    return min(1.0, 2 * alpha + min(slack, other))


def false_alarms(count: int, samples: int, alpha: float) -> Any:
    """Returns the law of the number of false alarms among good samples.

    It is beta-binomial, exactly, where no two scores are equal; a frozen distribution
    of `scipy.stats`.

    Args:
        count: of good scores that calibrate.
        samples: good ones that are judged.
        alpha: the rate, at least `smallest_alpha(count)`.
    """
    ranks = _ranks(count, alpha)
    if not ranks:
        raise ValueError(
            f"alpha: expected {smallest_alpha(count):.4g} or more with {count} good "
            f"scores, found {alpha}"
        )
    return stats.betabinom(samples, ranks, count + 1 - ranks)


def check_alpha(alpha: float) -> None:
    """Raises ValueError for what is no rate between 0 and 1."""
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not number or not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a rate between 0 and 1, found {alpha!r}")


def _ranks(count: int, alpha: float) -> int:
    """Returns ⌊(n + 1) alpha⌋ of the number as it is written, not as it is stored."""
    return math.floor((count + 1) * Fraction(str(alpha)))
