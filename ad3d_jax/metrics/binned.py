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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.metrics.curves import aupro, auroc, f1_max
from ad3d_jax.metrics.exact import LIMITS, Metrics, why_undefined
from ad3d_jax.metrics.ranking import Ranking

BINS = 1 << 16


class Binned(NamedTuple):
    """Histograms over the bins of the scores, lowest scores first."""

    normal: jax.Array | np.ndarray  # [65536] uint32, normal pixels
    defect: jax.Array | np.ndarray  # [65536] uint32, defect pixels
    mass: jax.Array | np.ndarray  # [65536] uint32, mass of the defect pixels


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
