"""The sampled AUPRO that most published tables of the field were computed with."""

import numpy as np

from ad3d_jax.metrics.curves import area_up_to
from ad3d_jax.metrics.ranking import Ranking


def sampled_aupro(ranking: Ranking, limit: float, thresholds: int = 100) -> float:
    """Returns AUPRO by MVTec's first evaluation: a few thresholds, ties by rank.

    The thresholds are normal scores at ranks spaced equally from the lowest to the
    highest. The false positive rate of a threshold counts the normal scores of higher
    rank, its overlap the defect pixels strictly above it; groups of equal scores
    therefore pull the area down, to 0 for a constant map. Small limits are affected
    most: below a rate of 1/(thresholds-1) the curve is a single chord.

    Args:
        ranking: of the pixels of a whole split, with normal and defect pixels.
        limit: in (0,1], largest false positive rate.
        thresholds: T >= 2; tables of the BTF family used 100, of CFM 99.
    """
    if thresholds < 2:
        raise ValueError(f"thresholds: expected at least 2, found {thresholds}")
    total = ranking.normals
    ascending = np.linspace(0, total - 1, num=thresholds, dtype=np.int64)
    above = total - 1 - ascending[::-1]  # normal scores of higher rank
    group = np.searchsorted(ranking.normal, above, side="right")
    overlap = np.append(0.0, ranking.overlap)[group]
    return area_up_to(np.append(above / total, 1.0), np.append(overlap, 1.0), limit)
