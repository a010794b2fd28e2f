"""Areas and curves read from a ranking: ROC, precision-recall, per-region overlap.

Every function of a metric needs a ranking with normal and defect elements; the callers
in `exact.py` and `binned.py` give NaN and a reason where one of them is missing.
"""

from typing import NamedTuple

import numpy as np

from ad3d_jax.metrics.ranking import Ranking


class Curve(NamedTuple):
    """Points of a curve for plotting; empty where the curve is undefined."""

    x: np.ndarray  # [P] float64 in [0,1]
    y: np.ndarray  # [P] float64 in [0,1]


def auroc(ranking: Ranking) -> float:
    """Returns the area under the ROC curve, P(s+ > s-) + P(s+ = s-)/2.

    Integer arithmetic up to one division: exactly 0.5 where all scores are equal.
    """
    normal = np.diff(ranking.normal, prepend=0)
    defect = ranking.defect + np.append(0, ranking.defect[:-1])
    return int(np.dot(normal, defect)) / (2 * ranking.normals * ranking.defects)


def average_precision(ranking: Ranking) -> float:
    """Returns the sum of precision times gain of recall over distinct thresholds."""
    gain = np.diff(ranking.defect, prepend=0)
    precision = ranking.defect / (ranking.defect + ranking.normal)
    return float(np.dot(gain, precision) / ranking.defects)


def f1_max(ranking: Ranking) -> tuple[float, float]:
    """Returns the largest F1 over all thresholds and the score that reaches it."""
    found = ranking.defect + ranking.normal
    f1 = 2.0 * ranking.defect / (found + ranking.defects)
    best = int(np.argmax(f1))
    return float(f1[best]), float(ranking.threshold[best])


def aupro(ranking: Ranking, limit: float) -> float:
    """Returns the normalised area under the PRO curve up to a false positive rate.

    Args:
        ranking: of the pixels of a whole split.
        limit: in (0,1], largest share of normal pixels that are called defects.

    Returns:
        In [0,1]; limit/2 where all scores are equal. The curve is interpolated linearly
        between distinct thresholds and at the limit (MVTec's evaluation, second form).
    """
    rate, overlap = _pro_points(ranking)
    return min(area_up_to(rate, overlap, limit), 1.0)  # rounding may exceed 1


def area_up_to(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Returns the area under a polyline over [0,limit], divided by the limit.

    Args:
        x: [P] float64, never decreasing, from 0 to 1.
        y: [P] float64.
        limit: in (0,1].
    """
    if not 0.0 < limit <= 1.0:
        raise ValueError(f"limit: expected a rate in (0,1], found {limit}")
    inside = int(np.searchsorted(x, limit, side="right"))
    area = np.trapezoid(y[:inside], x[:inside])
    if inside < x.size:
        left, right = inside - 1, inside
        slope = (y[right] - y[left]) / (x[right] - x[left])
        width = limit - x[left]
        area += width * (y[left] + 0.5 * slope * width)
    return float(area / limit)


def roc_curve(ranking: Ranking, points: int = 500) -> Curve:
    """Returns true over false positive rate, thinned to at most `points` points."""
    if not ranking.normals or not ranking.defects:
        return Curve(np.zeros(0), np.zeros(0))
    return _thinned(
        np.append(0.0, ranking.normal / ranking.normals),
        np.append(0.0, ranking.defect / ranking.defects),
        points,
    )


def pr_curve(ranking: Ranking, points: int = 500) -> Curve:
    """Returns precision over recall, thinned to at most `points` points."""
    if not ranking.normals or not ranking.defects:
        return Curve(np.zeros(0), np.zeros(0))
    precision = ranking.defect / (ranking.defect + ranking.normal)
    return _thinned(ranking.defect / ranking.defects, precision, points)


def pro_curve(ranking: Ranking, limit: float = 1.0, points: int = 500) -> Curve:
    """Returns per-region overlap over false positive rate up to a limit in (0,1]."""
    if not ranking.normals or not ranking.defects:
        return Curve(np.zeros(0), np.zeros(0))
    rate, overlap = _pro_points(ranking)
    end = np.interp(limit, rate, overlap)
    inside = rate < limit
    return _thinned(
        np.append(rate[inside], limit), np.append(overlap[inside], end), points
    )


def _pro_points(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    rate = np.append(0.0, ranking.normal / ranking.normals)
    return rate, np.append(0.0, ranking.overlap)


def _thinned(x: np.ndarray, y: np.ndarray, points: int) -> Curve:
    """Keeps points about evenly spaced along the curve, and both ends."""
    if x.size > points:
        step = np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0]))
        along = np.cumsum(step)
        wanted = np.searchsorted(along, np.linspace(0.0, along[-1], points))
        wanted[0], wanted[-1] = 0, x.size - 1
        kept = np.unique(np.minimum(wanted, x.size - 1))
        x, y = x[kept], y[kept]
    return Curve(x, y)
