"""How well a detector will find defects, estimated from good parts alone.

Its values on planted defects, kind by kind, with intervals of a bootstrap over hosts:
the good samples that defects were planted into, each with all of its altered twins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ad3d_jax import evaluate as evaluation
from ad3d_jax.experiment.study import strata
from ad3d_jax.metrics.regions import label_regions
from ad3d_jax.workdir.scores import Row

WORDS = (
    "values on defects that were planted into good parts, not on real ones: an "
    "estimate of how well defects of these kinds will be found"
)
LEVEL = 0.95  # of intervals
RESAMPLES = 400
LEVELS = 1024  # thresholds between which pixels are counted
DRAWN = 1 << 20  # pixels at most, of which thresholds are the quantiles
FEWEST = 0.5  # share of the resamples in which a metric must be defined
LIMITS = {"aupro_30": 0.3, "aupro_05": 0.05}


def estimate_of(
    scored: evaluation.Scored,
    rows: Sequence[Row],
    kinds: strata.Kinds,
    weights: Mapping[str, float],
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the estimate as JSON types; what is undefined is null, with its note.

    Args:
        scored: the planted split, each host before its twins.
        rows: of it.
        kinds: metrics of each kind, as `strata` measures them.
        weights: of kinds in the mean; 1 where not given.
        seed: of the bootstrap.
    """
    labels = np.array([row.label for row in rows])
    host = np.cumsum(labels == 0) - 1
    count = int(host[-1]) + 1
    draws = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), RESAMPLES
    )
    resampled = bootstrap(scored, rows, draws[:, host])
    found: dict[str, Any] = {kind: {} for kind in kinds}
    mean, notes = {}, {}
    share = np.array([weights.get(kind, 1.0) for kind in kinds])
    for metric in strata.METRICS:
        values = np.array([_number(kinds[kind][metric]) for kind in kinds])
        every = np.stack([resampled[kind][metric] for kind in kinds])
        for kind, value, own in zip(kinds, values, every, strict=True):
            found[kind][metric] = _entry(value, own, f"{kind}.{metric}", notes)
        counts = share > 0
        both = (share[counts] @ x[counts] / share.sum() for x in (values, every))
        mean[metric] = _entry(*both, f"mean.{metric}", notes)
    return {
        "what": WORDS,
        "hosts": count,
        "samples": {
            k: sum(row.defect == k and row.label for row in rows) for k in kinds
        },
        "kinds": found,
        "mean": mean,
        "interval": {
            "level": LEVEL,
            "method": "percentiles of a bootstrap over hosts",
            "resamples": RESAMPLES,
            "seed": seed,
        },
        "notes": notes,
    }


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _entry(
    value: float, resampled: np.ndarray, name: str, notes: dict[str, str]
) -> dict[str, float | None]:
    """Returns a value and its interval; a note says why one of them is null."""
    if np.isnan(value):
        notes[name] = "undefined on the planted samples"
        return {"value": None, "low": None, "high": None}
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < FEWEST * len(resampled):
        notes[name] = "its hosts are too few for an interval"
        return {"value": float(value), "low": None, "high": None}
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # Thresholds are fewer in the bootstrap than in the value, which it must hold.
    return {
        "value": float(value),
        "low": float(min(low, value)),
        "high": float(max(high, value)),
    }


def bootstrap(
    scored: evaluation.Scored, rows: Sequence[Row], weight: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the metrics of each kind in each resample, NaN where undefined.

    Metrics of pixels are those of LEVELS thresholds, at quantiles of all scores.

    Args:
        scored: the planted split.
        rows: of it, N.
        weight: [R,N] how often each row is in each resample.
    """
    labels = np.array([row.label for row in rows])
    normal, defect, mass, regions = _histograms(scored.maps, scored.masks)
    found = {}
    for kind in strata.kinds_in(rows):
        own = [n for n, row in enumerate(rows) if not row.label or row.defect == kind]
        w = weight[:, own].astype(np.float64)
        bad = labels[own] == 1
        with np.errstate(invalid="ignore", divide="ignore"):
            false = np.cumsum(w @ normal[own], 1)  # the highest scores first
            true = np.cumsum(w @ defect[own], 1)
            overlap = np.cumsum(w @ mass[own], 1) / (w @ regions[own])[:, None]
            rate = false / false[:, -1:]
            gain = np.diff(true, axis=1, prepend=0) / true[:, -1:]
            precision = np.where(true > 0, true / (true + false), 0.0)
            found[kind] = {
                "i_auroc": _auroc(scored.image[own], bad, w),
                "p_ap": np.sum(gain * precision, 1),
                **{name: _area(rate, overlap, x) for name, x in LIMITS.items()},
            }
    return found


def _histograms(
    maps: np.ndarray, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns counts of each row's pixels by level, [N,LEVELS], the highest first.

    Of normal pixels, of defects, and of defects such that each region sums to 1; and
    the number of regions of each row, [N].
    """
    some = maps.ravel()[:: -(-maps.size // DRAWN)]
    edges = np.unique(np.quantile(some, np.linspace(0, 1, LEVELS)[1:-1]))
    parts = [], [], [], []
    for values, mask in zip(maps, masks, strict=True):
        level = len(edges) - np.searchsorted(edges, values.ravel(), side="right")
        region = label_regions(mask[None])[0].ravel()
        sizes = np.bincount(region)
        bad, size = region > 0, len(edges) + 1
        parts[0].append(np.bincount(level[~bad], minlength=size))
        parts[1].append(np.bincount(level[bad], minlength=size))
        share = 1 / sizes[region[bad]]
        parts[2].append(np.bincount(level[bad], weights=share, minlength=size))
        parts[3].append(len(sizes) - 1)
    return tuple(np.stack(part).astype(np.float64) for part in parts)


def _auroc(image: np.ndarray, bad: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the AUROC of images in each resample, [R]."""
    above = np.sign(image[bad][:, None] - image[~bad][None]) / 2 + 0.5
    w, v = weight[:, bad], weight[:, ~bad]
    return np.einsum("rd,dg,rg->r", w, above, v) / (w.sum(1) * v.sum(1))


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> np.ndarray:
    """Returns the normalised area under polylines [R,P] from (0,0) up to a limit."""
    x, y = (np.pad(part, ((0, 0), (1, 0))) for part in (x, y))
    width = np.clip(np.diff(np.minimum(x, limit), axis=1), 0, None)
    step = np.diff(x, axis=1)
    # Of the part that crosses the limit, the height at the limit.
    reached = np.where(step > 0, width / np.where(step > 0, step, 1), 0.0)
    height = y[:, :-1] + np.diff(y, axis=1) * reached / 2
    return np.sum(width * height, 1) / limit
