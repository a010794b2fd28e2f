"""What a setting is worth on planted and on real defects, with draws of the latter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ad3d_jax.evaluate import Scored, measure
from ad3d_jax.experiment.study import strata
from ad3d_jax.metrics.binned import smooth_average_precision
from ad3d_jax.metrics.curves import aupro, auroc
from ad3d_jax.metrics.ranking import Ranking, rank_images
from ad3d_jax.metrics.regions import label_regions
from ad3d_jax.workdir.scores import Row

METRICS = ("aupro_30", "p_ap", "i_auroc")  # of the real defects
DRAWS = 100  # of the real samples, with replacement
LEVELS = 2000  # thresholds of a draw's curves, half at normal pixels, half at defects
DIGITS = 4  # that are kept of a draw


def planted_values(scored: Scored, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Returns what a study keeps of each kind of planted defect."""
    kinds = strata.measure(scored, rows)
    return {k: {n: found[n] for n in strata.METRICS} for k, found in kinds.items()}


def real_values(scored: Scored, rows: Sequence[Row]) -> dict[str, float | None]:
    """Returns the exact metrics of the real samples."""
    metrics = measure(scored, rows)
    return {name: metrics[name] for name in METRICS}


def draws(labels: np.ndarray, count: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Returns how often each sample is drawn, [count,N] int, as often good as before.

    They depend on labels and seed alone, so that all settings share them.
    """
    generator = np.random.default_rng(seed)
    drawn = np.zeros((count, len(labels)), np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        chosen = generator.choice(own, (count, len(own)))
        for number, row in enumerate(chosen):
            np.add.at(drawn[number], row, 1)
    return drawn


def drawn_values(
    scored: Scored, labels: np.ndarray, drawn: np.ndarray
) -> dict[str, list[float]]:
    """Returns the metrics of each draw; those of pixels from LEVELS thresholds.

    Args:
        scored: the real samples.
        labels: [N] 0 = good, 1 = defective.
        drawn: [count,N] how often each sample counts.
    """
    levels = _levels(scored)
    normal, defect, overlap, regions = _above(scored, levels)
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for times in drawn:
        pixels = Ranking(
            levels,
            times @ normal,
            times @ defect,
            (times @ overlap) / max(int(times @ regions), 1),
        )
        image = np.repeat(scored.image, times)
        images = rank_images(image, np.repeat(labels, times))
        found["aupro_30"].append(aupro(pixels, 0.3))
        found["p_ap"].append(smooth_average_precision(pixels))
        found["i_auroc"].append(auroc(images))
    return {name: [round(x, DIGITS) for x in each] for name, each in found.items()}


def _levels(scored: Scored) -> np.ndarray:
    """Returns thresholds, falling, close together where the highest scores lie."""
    masks = scored.masks
    tail = np.append(np.geomspace(1e-6, 1, LEVELS // 2), 0)
    parts = [
        np.quantile(scored.maps[~masks], 1 - tail, method="lower"),
        np.quantile(scored.maps[masks], np.linspace(0, 1, LEVELS // 2), method="lower"),
        [scored.maps.min()],
    ]
    return np.unique(np.concatenate(parts).astype(np.float32))[::-1]


def _above(scored: Scored, levels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns of each sample, at each level, what reaches it, and its regions.

    Returns:
        Normal pixels and defect pixels, [N,L] int64; the sum over its regions of the
        share of each, [N,L] float64; the number of its regions, [N] int64.
    """
    normal, defect, overlap, counts = [], [], [], []
    labelled = label_regions(scored.masks)
    for scores, regions in zip(scored.maps, labelled, strict=True):
        numbers = np.unique(regions[regions > 0])
        each = [_reaching(scores[regions == number], levels) for number in numbers]
        normal.append(_reaching(scores[regions == 0], levels))
        defect.append(sum(each, np.zeros(len(levels), np.int64)))
        overlap.append(sum((x / x[-1] for x in each), np.zeros(len(levels))))
        counts.append(len(numbers))
    return *map(np.stack, (normal, defect, overlap)), np.array(counts)


def _reaching(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
    rising = np.sort(scores)
    return len(rising) - np.searchsorted(rising, levels, "left")


def mean_of(kinds: Mapping[str, Mapping[str, Any]], metric: str) -> float:
    """Returns the mean over kinds of a planted metric, NaN where one is undefined."""
    return strata.value(kinds, metric, {})
