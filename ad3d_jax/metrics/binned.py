"""Pixel metrics from histograms that are filled on devices and merged in any order.

A bin is the upper 16 bits of a score's float32 pattern, made monotone: 128 bins for
each power of two, both signs. No range has to be known beforehand, and heavy tails cost
no resolution, unlike equally wide bins. Scores that all lie within a small fraction of
a power of two (say 0.90 to 0.91) share few bins: subtract an offset first, or use
`exact.py`.

All three histograms hold unsigned 32-bit integers: normal pixels, defect pixels, and
the mass of defect pixels, where a region's mass is the same whole number however large
it is. `region_mass` deals it out on the host so that the sum over all K regions of the
split fits 32 bits. Integer addition is associative; the result has the same bits on any
device, in any order, with any split over hosts. The split may hold 2**32 - 1 pixels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import digamma

from ad3d_jax.metrics.curves import area_up_to, aupro, auroc, f1_max
from ad3d_jax.metrics.exact import (
    LIMITS,
    Metrics,
    completed,
    measure,
    why_undefined,
)
from ad3d_jax.metrics.ranking import Ranking, rank_images, refuse_nan
from ad3d_jax.metrics.regions import label_regions

BINS = 1 << 16
ROWS = 64  # maps that are added at a time


class Binned(NamedTuple):
    """Histograms over the bins of the scores, lowest scores first."""

    normal: jax.Array | np.ndarray  # [65536] uint32, normal pixels
    defect: jax.Array | np.ndarray  # [65536] uint32, defect pixels
    mass: jax.Array | np.ndarray  # [65536] uint32, mass of the defect pixels


def evaluate(
    maps: np.ndarray,
    masks: np.ndarray,
    image_scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | None = None,
) -> tuple[Metrics, dict[str, tuple[float, float]]]:
    """Returns the metrics of a split from histograms of its pixels, and their bounds.

    Args and errors as of `exact.evaluate`, whose values of images these are. Those of
    pixels lie in the bounds, see `bounds`; aupro_30_compat is undefined, since it takes
    single pixels. Beyond its arguments it takes ROWS maps a few times over.

    Raises:
        ValueError: besides, there are 2**32 pixels or more.
    """
    images = rank_images(image_scores, labels, names)
    state = filled(maps, masks, names)
    metrics, own = measure(as_ranking(state), images), compute(state)
    compat = {"aupro_30_compat": math.nan}
    values = metrics.values | own.values | compat
    reason = {"aupro_30_compat": "undefined: histograms do not order single pixels"}
    notes = metrics.notes | own.notes | reason
    if why := why_undefined(as_ranking(state), "pixel"):
        notes["aupro_30_compat"] = why
    found = completed(Metrics(values, notes), maps, masks, labels)
    limits = bounds(state)
    return found, {n: x for n, x in limits.items() if not math.isnan(found.values[n])}


def filled(
    maps: np.ndarray, masks: np.ndarray, names: Sequence[str] | None = None
) -> Binned:
    """Returns the histograms of a whole split on the host, filled ROWS maps at a time.

    Raises:
        ValueError: shapes differ, a map holds NaN (the sample is named), or there are
            2**32 pixels or more.
    """
    if maps.shape != masks.shape or maps.size >= 2**32:
        raise ValueError(
            f"maps: expected the shape of the masks {list(masks.shape)} and fewer than "
            f"2**32 pixels, found {list(maps.shape)}"
        )
    state, starts = empty(), range(0, len(maps), ROWS)
    parts = [slice(start, start + ROWS) for start in starts]
    total = sum(int(label_regions(masks[part]).max(initial=0)) for part in parts)
    for part in parts:
        some = np.asarray(maps[part], np.float32)
        bad = np.isnan(some).any(axis=(1, 2))
        refuse_nan("anomaly map", bad, None if names is None else names[part])
        mass = region_mass(label_regions(masks[part]), total)
        pad = ((0, ROWS - len(some)), (0, 0), (0, 0))
        weight = np.float32(np.arange(ROWS) < len(some))
        state = update(state, np.pad(some, pad), np.pad(mass, pad), weight)
    return Binned(*map(np.asarray, state))


def region_mass(regions: np.ndarray, total: int | None = None) -> np.ndarray:
    """Deals one equal whole-numbered mass to the pixels of each region, on the host.

    Args:
        regions: [N,H,W] int32 of `regions.label_regions`, numbered without gaps.
        total: K, regions of the whole split over all hosts; None = those given here.

    Returns:
        [N,H,W] uint32, 0 on normal pixels, at least 1 on defects. Each region sums to
        (2**32 - 1) // K; its pixels differ by 1 at most.

    Raises:
        ValueError: total is too small, or a region has more pixels than its mass.
    """
    sizes = np.bincount(np.ravel(regions))[1:].astype(np.int64)
    total = sizes.size if total is None else total
    if total < sizes.size:
        raise ValueError(
            f"total: expected at least {sizes.size} regions, found {total}"
        )
    mass = np.zeros(regions.size, np.uint32)
    if not sizes.size:
        return mass.reshape(regions.shape)
    share = (2**32 - 1) // total
    if sizes.max() > share:
        raise ValueError(
            f"regions: expected at most {share} pixels each, found {sizes.max()}"
        )
    where = np.flatnonzero(regions)
    order = np.argsort(np.ravel(regions)[where], kind="stable")
    size = np.repeat(sizes, sizes)
    place = np.arange(size.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    dealt = (place + 1) * share // size - place * share // size
    mass[where[order]] = dealt.astype(np.uint32)
    return mass.reshape(regions.shape)


def empty() -> Binned:
    """Returns histograms of no pixel."""
    return Binned(*(jnp.zeros(BINS, jnp.uint32) for _ in Binned._fields))


@jax.jit
def update(
    state: Binned, maps: jax.Array, mass: jax.Array, weight: jax.Array
) -> Binned:
    """Adds the pixels of a batch.

    Args:
        state: histograms so far.
        maps: [B,H,W] float32 anomaly maps, may be infinite.
        mass: [B,H,W] uint32 of `region_mass`.
        weight: [B] float32, 0 marks a padded row, which adds nothing.
    """
    bits = jax.lax.bitcast_convert_type(maps.astype(jnp.float32), jnp.uint32)
    bits = jnp.where(bits == jnp.uint32(1 << 31), jnp.uint32(0), bits)  # -0 equals 0
    negative = bits >> 31 == 1
    ordered = jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
    bins = jnp.where(jnp.isnan(maps), jnp.uint32(BINS - 1), ordered >> 16)
    real = jnp.broadcast_to(weight[:, None, None] > 0, maps.shape)
    defect = real & (mass > 0)

    def add(histogram, amounts):
        amounts = amounts.astype(jnp.uint32).reshape(-1)
        return histogram.at[bins.reshape(-1)].add(amounts)

    return Binned(
        normal=add(state.normal, real & (mass == 0)),
        defect=add(state.defect, defect),
        mass=add(state.mass, jnp.where(defect, mass, jnp.uint32(0))),
    )


def merge(first: Binned, second: Binned) -> Binned:
    """Returns the histograms of both; the order of merging changes no bit."""
    return Binned(*(a + b for a, b in zip(first, second, strict=True)))


def compute(state: Binned) -> Metrics:
    """Returns p_auroc, p_ap, p_f1max and AUPRO at four limits, on the host.

    Normal and defect pixels of one bin count as evenly mixed. From a million pixels on,
    smooth and heavy-tailed, areas lie within 1e-4 of `exact.evaluate` and F1 within
    1e-3; fewer pixels with few regions a bin give errors up to 1e-3. Undefined values
    are NaN, with the reason in the notes.

    Raises:
        ValueError: a map held NaN.
    """
    ranking = as_ranking(state)
    names = ("p_auroc", *LIMITS, "p_ap", "p_f1max")
    missing = why_undefined(ranking, "pixel")
    if missing:
        return Metrics(dict.fromkeys(names, math.nan), dict.fromkeys(names, missing))
    values = {name: aupro(ranking, limit) for name, limit in LIMITS.items()}
    values |= {
        "p_auroc": auroc(ranking),
        "p_ap": smooth_average_precision(ranking),
        "p_f1max": f1_max(ranking)[0],
    }
    return Metrics({name: values[name] for name in names}, {})


def bounds(state: Binned) -> dict[str, tuple[float, float]]:
    """Returns, of each value of `compute`, between which two the exact one lies.

    The order inside the bins is not known: once all defects of a bin stand before its
    normal pixels, and once behind them. {} where nothing is defined.
    """
    ranking = as_ranking(state)
    if why_undefined(ranking, "pixel"):
        return {}
    normal, defect, overlap = (
        np.append(0, x) for x in (ranking.normal, ranking.defect, ranking.overlap)
    )
    more, found = np.diff(normal), np.diff(defect)
    area = auroc(ranking)
    share = float(np.dot(more, found)) / (2 * ranking.normals * ranking.defects)
    rate = np.repeat(normal / ranking.normals, 2)
    step = np.repeat(overlap, 2)
    # Up and then along, or along and then up.
    between = {
        name: (
            min(area_up_to(rate[1:], step[:-1], limit), 1.0),
            min(area_up_to(rate[:-1], step[1:], limit), 1.0),
        )
        for name, limit in LIMITS.items()
    }
    first = _gained(defect[:-1], normal[:-1], found)
    last = _gained(defect[:-1], normal[1:], found)
    best = 2 * defect[1:] / (defect[1:] + normal[:-1] + ranking.defects)
    return {
        "p_auroc": (area - share, area + share),
        **between,
        "p_ap": (last / ranking.defects, min(first / ranking.defects, 1.0)),
        "p_f1max": (f1_max(ranking)[0], float(best.max())),
    }


def _gained(defect: np.ndarray, normal: np.ndarray, gain: np.ndarray) -> float:
    """Returns the sum of precisions while `gain` defects follow on others, one by one.

    Sum over i = 1 .. gain of (defect + i) / (defect + normal + i), by the digamma
    function, for each bin; the sum of all bins.
    """
    total = defect + normal
    harmonic = digamma(total + gain + 1.0) - digamma(total + 1.0)
    return float(np.sum(gain - normal * harmonic))


def smooth_average_precision(ranking: Ranking) -> float:
    """Returns the area under precision over recall if bins are evenly mixed inside.

    Within a bin both counts grow in a fixed proportion (Davis and Goadrich 2006,
    section 4), which removes the bias that steps as wide as a bin would have. One bin
    alone gives the share of defects, as all ties must.
    """
    kept = np.diff(ranking.defect, prepend=0) > 0
    found = ranking.defect + ranking.normal
    gain = np.diff(ranking.defect, prepend=0)[kept]
    growth = np.diff(found, prepend=0)[kept] / gain
    defect = ranking.defect[kept] - gain
    before = found[kept] - growth * gain
    before = np.maximum(before, 1e-9)  # zero in the highest bin, where defect is, too
    curved = (defect - before / growth) / growth * np.log1p(growth * gain / before)
    return float(np.sum(gain / growth + curved) / ranking.defects)


def as_ranking(state: Binned) -> Ranking:
    """Returns the ranking whose distinct scores are the lower edges of filled bins.

    Raises:
        ValueError: a map held NaN.
    """
    normal, defect, mass = (np.asarray(x).astype(np.int64)[::-1] for x in state)
    if normal[0] or defect[0]:
        raise ValueError(
            f"maps: expected numbers, found NaN in {normal[0] + defect[0]} pixels"
        )
    filled = np.flatnonzero(normal + defect)
    mass = np.cumsum(mass[filled])
    return Ranking(
        threshold=_lower_edges(BINS - 1 - filled),
        normal=np.cumsum(normal[filled]),
        defect=np.cumsum(defect[filled]),
        overlap=mass / max(int(mass[-1]), 1) if mass.size else np.zeros(0),
    )


def _lower_edges(bins: np.ndarray) -> np.ndarray:
    """Returns the smallest float32 score of each bin."""
    low = bins.astype(np.uint32) << np.uint32(16)
    bits = np.where(low >> 31, low ^ np.uint32(1 << 31), ~low)
    edges = bits.view(np.float32)
    return np.where(np.isnan(edges), np.float32(-np.inf), edges)
