"""Surprise at a score: minus the natural logarithm of its p-value among good samples.

Surprises of several detectors, whose scores have scales of their own, can be combined:
`combined` is minus the logarithm of the harmonic mean of their p-values, which bears
any dependence between them (Wilson, "The harmonic mean p-value for combining dependent
tests", PNAS 2019). Its own law under dependence is not exactly known, so that it counts
as a score, which is calibrated as any other; `out_of` and `least` make that exact, see
docs/ensembles.md.

A p-value counts good values that are as large. Between two of them the surprise is
interpolated, so that there are no ties; above the largest it grows linearly, as for an
exponential law. This file needs NumPy alone: exports hold a copy of it.
"""

from typing import NamedTuple

import numpy as np

FEWEST = 3  # good samples without one of which two are left
SMALLEST = 1e-30  # scale of scores, where all are alike


class Tail(NamedTuple):
    """The surprise at every value, from those of good samples."""

    values: np.ndarray  # [N] float64, of good samples, falling
    heights: np.ndarray  # [N] float64, the surprise at each, at least 0
    scale: float  # what a value has to grow above the largest to surprise by 1 more


def out_of(values: np.ndarray, number: int) -> Tail:
    """Returns the surprises that all samples but one give.

    Args:
        values: [n,P] P values of each of n good samples, FEWEST or more.
        number: of the sample that is left out.
    """
    return _tail(np.delete(values, number, axis=0), values)


def least(values: np.ndarray) -> Tail:
    """Returns surprises that are nowhere above those of any `out_of` the samples.

    Args:
        values: [n,P] as there.
    """
    scales = [out_of(values, i).scale for i in range(len(values))]
    return _tail(values, values)._replace(scale=max(scales))


def surprise(tail: Tail, values: np.ndarray) -> np.ndarray:
    """Returns the surprise at values, float64 of their shape."""
    values = np.asarray(values, np.float64)
    # Of several equal good values the least surprise: np.interp takes the last one.
    inside = np.interp(-values, -tail.values, tail.heights)
    return inside + np.maximum(values - tail.values[0], 0) / tail.scale


def combined(surprises: np.ndarray) -> np.ndarray:
    """Returns minus the logarithm of the harmonic mean of p-values, [...] float32.

    Args:
        surprises: [K,...] minus the logarithm of each of K.
    """
    most = surprises.max(axis=0)
    return (most + np.log(np.exp(surprises - most).mean(axis=0))).astype(np.float32)


def _tail(chosen: np.ndarray, values: np.ndarray) -> Tail:
    """Returns the surprises that chosen samples give; counted is out of n - 1."""
    count = (len(values) - 1) * values.shape[1]
    falling = np.sort(chosen.astype(np.float64), axis=None)[::-1]
    ranks = np.arange(1, len(falling) + 1)
    heights = np.maximum(-np.log((1 + ranks) / (1 + count)), 0)
    return Tail(falling, heights, _scale(falling))


def _scale(falling: np.ndarray) -> float:
    """Returns the mean excess of the largest √N values over the next one."""
    most = min(int(np.ceil(np.sqrt(len(falling)))), len(falling) - 1)
    excess = falling[:most].mean() - falling[most]
    accuracy = np.finfo(np.float32).eps * np.abs(falling).max()
    return float(max(excess, accuracy, SMALLEST))
