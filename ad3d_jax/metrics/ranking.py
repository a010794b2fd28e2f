"""One sort of all scores, from which every metric and curve is read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ad3d_jax.metrics.regions import label_regions


class Ranking(NamedTuple):
    """Cumulative truth at each of the G distinct scores, from the highest down.

    Equal scores form one entry, so that nothing depends on the order of the samples.
    """

    threshold: np.ndarray  # [G] float32, strictly decreasing
    normal: np.ndarray  # [G] int64, normal elements with a score >= threshold
    defect: np.ndarray  # [G] int64, defect elements with a score >= threshold
    overlap: np.ndarray  # [G] float64 in [0,1], mean share of a region >= threshold

    @property
    def normals(self) -> int:
        """Number of normal elements."""
        return int(self.normal[-1]) if self.normal.size else 0

    @property
    def defects(self) -> int:
        """Number of defect elements."""
        return int(self.defect[-1]) if self.defect.size else 0


def descending_keys(scores: np.ndarray) -> np.ndarray:
    """Returns uint32 keys whose ascending order is the descending order of the scores.

    Args:
        scores: float32 of any shape without NaN; infinities are ordered, -0 equals 0.
    """
    bits = (scores + np.float32(0)).view(np.uint32)
    flip = np.where(bits >> 31, np.uint32(0), np.uint32(0x7FFFFFFF))
    return bits ^ flip


def scores_of_keys(keys: np.ndarray) -> np.ndarray:
    """Returns the float32 scores of `descending_keys`."""
    flip = np.where(keys >> 31, np.uint32(0), np.uint32(0x7FFFFFFF))
    return (keys ^ flip).view(np.float32)


def rank(scores: np.ndarray, regions: np.ndarray) -> Ranking:
    """Sorts scores once and accumulates the truth along the order.

    The region number rides in the low half of a 64-bit key whose high half is the
    score, so that a plain sort of integers replaces a permutation and its gathers.

    Args:
        scores: float32 of any shape, without NaN.
        regions: int32 of the same shape, 0 = normal, k > 0 = member of region k.
    """
    keys = descending_keys(np.ravel(scores)).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.ravel(regions).astype(np.uint64)
    keys.sort()
    region = keys.astype(np.uint32)  # the low half
    keys >>= np.uint64(32)
    last = np.append(np.flatnonzero(keys[1:] != keys[:-1]), keys.size - 1)
    last = last[: keys.size]  # an empty split has no entry
    defect = np.cumsum(region > 0, dtype=np.int64)[last]
    return Ranking(
        threshold=scores_of_keys(keys[last].astype(np.uint32)),
        normal=last + 1 - defect,
        defect=defect,
        overlap=_overlap(region[region > 0], defect),
    )


def rank_pixels(
    maps: np.ndarray, masks: np.ndarray, names: Sequence[str] | None = None
) -> Ranking:
    """Ranks the pixels of a whole split; regions are 8-connected (`regions.py`).

    Args:
        maps: [N,H,W] float32 anomaly maps, higher is more anomalous; may be infinite.
        masks: [N,H,W] bool, True on defects.
        names: [N] names of the samples, for errors.

    Raises:
        ValueError: shapes differ, or a map holds NaN (the sample is named).
    """
    maps = np.asarray(maps, np.float32)
    regions = label_regions(masks)
    if maps.shape != regions.shape:
        raise ValueError(
            f"maps: expected the shape of the masks {list(regions.shape)},"
            f" found {list(maps.shape)}"
        )
    refuse_nan("anomaly map", np.isnan(maps).any(axis=(1, 2)), names)
    return rank(maps, regions)


def rank_images(
    scores: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None
) -> Ranking:
    """Ranks the images of a split.

    Args:
        scores: [N] float32, higher is more anomalous; may be infinite.
        labels: [N] 0 = normal, 1 = anomalous.
        names: [N] names of the samples, for errors.

    Raises:
        ValueError: shapes differ, labels are not 0 or 1, or a score is NaN.
    """
    scores, labels = np.asarray(scores, np.float32), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            "image_scores and labels: expected two arrays [N],"
            f" found {list(scores.shape)} and {list(labels.shape)}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"labels: expected 0 or 1, found {sorted(set(labels.tolist()) - {0, 1})}"
        )
    refuse_nan("image score", np.isnan(scores), names)
    return rank(scores, labels.astype(np.int32))


def _overlap(region: np.ndarray, defect: np.ndarray) -> np.ndarray:
    """Returns the mean share of the regions found; `region` is in rank order."""
    if region.size == 0:
        return np.zeros(defect.shape)
    sizes = np.maximum(np.bincount(region), 1)
    share = np.cumsum((1.0 / sizes)[region])
    return np.append(0.0, share / share[-1])[defect]


def refuse_nan(what: str, bad: np.ndarray, names: Sequence[str] | None) -> None:
    """Raises a ValueError that names the first sample whose score is NaN."""
    if not bad.any():
        return
    first = int(np.argmax(bad))
    name = names[first] if names is not None else f"sample {first}"
    raise ValueError(
        f"{name}: the {what} holds NaN, expected numbers"
        f" ({int(bad.sum())} of {bad.size} samples are affected)"
    )
