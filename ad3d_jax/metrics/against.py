"""Rankings of several kinds of defects against the same good samples, sorted once."""

import numpy as np

from ad3d_jax.metrics.ranking import Ranking, rank


def rank_against(good: np.ndarray, scores: np.ndarray, regions: np.ndarray) -> Ranking:
    """Ranks pixels together with those of good samples, as `ranking.rank` would.

    Entries are left out where only normal pixels come in: every curve is straight
    there, and none of its areas or maxima changes. Sampled thresholds are not to be
    read from it.

    Args:
        good: [G] float32 scores of normal pixels, rising.
        scores: float32 of any shape, without NaN.
        regions: int32 of the same shape, 0 = normal, k > 0 = member of region k.
    """
    scores, regions = np.ravel(scores), np.ravel(regions)
    normal = np.sort(scores[regions == 0])
    defects = rank(scores[regions > 0], regions[regions > 0])

    def count(side: str) -> np.ndarray:
        below = (np.searchsorted(x, defects.threshold, side) for x in (good, normal))
        return good.size + normal.size - sum(below)

    def pairs(before: np.ndarray, at: np.ndarray, end) -> np.ndarray:
        return np.append(np.stack([before, at], 1).ravel(), end).astype(at.dtype)

    # Just above each score of a defect, and at it; then all there is.
    normals = pairs(count("right"), count("left"), good.size + normal.size)
    found, share = defects.defect, defects.overlap
    defect = pairs(np.append(0, found)[:-1], found, defects.defects)
    overlap = pairs(np.append(0.0, share)[:-1], share, share[-1] if share.size else 0)
    above = np.nextafter(defects.threshold, np.float32(np.inf))
    threshold = pairs(above, defects.threshold, -np.inf)
    changed = np.diff(normals, prepend=0) + np.diff(defect, prepend=0) > 0
    return Ranking(
        threshold[changed], normals[changed], defect[changed], overlap[changed]
    )
