"""All metrics of a class by their exact definitions, from one sort of the pixels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ad3d_jax.metrics.compat import sampled_aupro
from ad3d_jax.metrics.curves import aupro, auroc, average_precision, f1_max
from ad3d_jax.metrics.ranking import Ranking, rank_images, rank_pixels

LIMITS = {"aupro_30": 0.3, "aupro_10": 0.1, "aupro_05": 0.05, "aupro_01": 0.01}
REGION_METRICS = (*LIMITS, "aupro_30_compat")


class Metrics(NamedTuple):
    """Metrics of one class, or of one part of its scores."""

    values: dict[str, float]  # fractions in [0,1]; NaN where undefined
    notes: dict[str, str]  # why a value is NaN, and what else a reader must know


def evaluate(
    maps: np.ndarray,
    masks: np.ndarray,
    image_scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | None = None,
) -> Metrics:
    """Returns all metrics of the test split of one class.

    Args:
        maps: [N,H,W] float32 anomaly maps, higher is more anomalous; may be infinite.
            An unorganised cloud has W = 1 and no regions, so its AUPRO is undefined.
        masks: [N,H,W] bool, True on defects.
        image_scores: [N] float32, higher is more anomalous; may be infinite.
        labels: [N] 0 = normal, 1 = anomalous.
        names: [N] names of the samples, for errors.

    Returns:
        Values i_auroc, p_auroc, aupro_30, aupro_10, aupro_05, aupro_01, i_ap, p_ap,
        i_f1max, p_f1max and aupro_30_compat (100 sampled thresholds). Those that are
        undefined are NaN, with the reason in the notes.

    Raises:
        ValueError: shapes or types are wrong, or a score is NaN (the sample is named).
    """
    pixels = rank_pixels(maps, masks, names)
    images = rank_images(image_scores, labels, names)
    if len(maps) != len(labels):
        raise ValueError(
            f"labels: expected one for each of {len(maps)} maps, found {len(labels)}"
        )
    return completed(measure(pixels, images), maps, masks, labels)


def completed(
    metrics: Metrics, maps: np.ndarray, masks: np.ndarray, labels: np.ndarray
) -> Metrics:
    """Returns the metrics with what the shapes and the masks say of them."""
    if len(maps) and np.shape(maps)[2] == 1:
        metrics = _without_regions(metrics)
    empty = int(np.sum((np.asarray(labels) == 1) & ~np.any(masks, axis=(1, 2))))
    if empty:
        total = int(np.sum(labels))
        text = f"{empty} of {total} anomalous images have no defect pixel"
        metrics.notes["masks"] = text
    return metrics


def measure(pixels: Ranking, images: Ranking) -> Metrics:
    """Returns the values of `evaluate` from rankings that were made before."""
    values, notes = {}, {}

    def put(name: str, ranking: Ranking, kind: str, value) -> None:
        missing = why_undefined(ranking, kind)
        values[name] = math.nan if missing else value()
        if missing:
            notes[name] = missing

    put("i_auroc", images, "image", lambda: auroc(images))
    put("p_auroc", pixels, "pixel", lambda: auroc(pixels))
    for name, limit in LIMITS.items():
        put(name, pixels, "pixel", lambda limit=limit: aupro(pixels, limit))
    put("i_ap", images, "image", lambda: average_precision(images))
    put("p_ap", pixels, "pixel", lambda: average_precision(pixels))
    put("i_f1max", images, "image", lambda: f1_max(images)[0])
    put("p_f1max", pixels, "pixel", lambda: f1_max(pixels)[0])
    put("aupro_30_compat", pixels, "pixel", lambda: sampled_aupro(pixels, 0.3, 100))
    return Metrics(values, notes)


def why_undefined(ranking: Ranking, kind: str) -> str | None:
    """Returns why no metric of the ranking is defined, or None."""
    defect = {"image": "anomalous image", "pixel": "defect pixel"}[kind]
    if not ranking.normals and not ranking.defects:
        return f"undefined: there is no {kind}"
    if not ranking.defects:
        return f"undefined: there is no {defect}"
    if not ranking.normals:
        return f"undefined: there is no normal {kind}"
    return None


def _without_regions(metrics: Metrics) -> Metrics:
    """Returns the metrics with every AUPRO undefined."""
    text = "undefined: an unorganised cloud has no connected regions"
    values = metrics.values | dict.fromkeys(REGION_METRICS, math.nan)
    return Metrics(values, metrics.notes | dict.fromkeys(REGION_METRICS, text))
