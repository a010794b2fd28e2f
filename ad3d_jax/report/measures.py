"""The few figures that the report works out itself, from scores.csv and maps/."""

import math
from typing import NamedTuple

import numpy as np

from ad3d_jax.metrics import binned, curves
from ad3d_jax.metrics.ranking import Ranking, rank_images, rank_pixels
from ad3d_jax.ops.resize import at_size
from ad3d_jax.report.files import Run
from ad3d_jax.workdir import names
from ad3d_jax.workdir.scores import Row


class DefectRow(NamedTuple):
    """What is said of one defect type; None where it is undefined."""

    defect: str
    count: int
    mean_score: float | None
    detected: int | None  # images with a score at or above the threshold
    auroc: float | None  # of this type against good


def image_ranking(rows: tuple[Row, ...]) -> Ranking | str:
    """Returns the ranking of the images, or why there is none."""
    if not rows:
        return f"{names.SCORES} holds no sample"
    silent = sum(math.isnan(row.score) for row in rows)
    if silent:
        return f"{silent} of {len(rows)} samples have no score"
    categories = {row.category for row in rows}
    if len(categories) > 1:
        return f"scores of {len(categories)} categories cannot be ranked together"
    labels = np.array([row.label for row in rows])
    ranking = rank_images(scores_of(rows), labels)
    if not ranking.defects:
        return "there is no defective sample"
    if not ranking.normals:
        return "there is no good sample"
    return ranking


def pixel_ranking(run: Run) -> Ranking | str:
    """Returns the ranking of the pixels of all test maps, or why there is none."""
    if len({row.category for row in run.rows}) > 1:
        return "maps of several categories cannot be ranked together"
    names = [row.name for row in run.rows]
    absent = sum(name not in run.maps for name in names)
    if not names:
        return "there is no test map"
    if absent:
        return f"{absent} of {len(names)} anomaly maps are missing"
    sizes = {run.masks[name].shape for name in names}
    if len(sizes) > 1:
        return f"the masks differ in size: {sorted(sizes)}"
    if sizes.pop()[1] == 1:
        return "an unorganised cloud has no regions"
    maps = np.stack([at_size(run.maps[name], run.masks[name].shape) for name in names])
    if np.isnan(maps).any():
        return "a map holds values that are no numbers"
    masks = np.stack([run.masks[name] for name in names])
    if not masks.any():
        return "no pixel is marked as a defect"
    if masks.all():
        return "every pixel is marked as a defect"
    if "bounds" in run.metrics:  # there was no memory to sort them, either
        return binned.as_ranking(binned.filled(maps, masks))
    return rank_pixels(maps, masks)


def scores_of(rows: list[Row] | tuple[Row, ...]) -> np.ndarray:
    """Returns [N] float32 scores."""
    return np.array([row.score for row in rows], np.float32)


def defect_names(rows: tuple[Row, ...]) -> list[str]:
    """Returns the defect types, those of good samples first, else by name."""
    first = {}
    for row in rows:
        first[row.defect] = min(first.get(row.defect, 1), row.label)
    return sorted(first, key=lambda name: (first[name], name))


def defect_rows(rows: tuple[Row, ...], threshold: float | None) -> list[DefectRow]:
    """Returns a row for each defect type in the order of `defect_names`.

    Args:
        rows: all samples.
        threshold: a score at or above it counts as detected; None if there is none.
    """
    result = []
    for defect in defect_names(rows):
        mine = [row for row in rows if row.defect == defect]
        scores = scores_of(mine)
        whole = not np.isnan(scores).any()
        known = whole and threshold is not None
        result.append(
            DefectRow(
                defect,
                len(mine),
                float(scores.mean(dtype=np.float64)) if whole else None,
                int((scores >= threshold).sum()) if known else None,
                against_good(defect, rows),
            )
        )
    return result


def against_good(defect: str, rows: tuple[Row, ...]) -> float | None:
    """Returns the AUROC of one defect type against all good samples, if defined."""
    subset = tuple(r for r in rows if r.label == 0 or r.defect == defect)
    ranking = image_ranking(subset)
    bad = any(r.label == 1 for r in subset if r.defect == defect)
    return curves.auroc(ranking) if isinstance(ranking, Ranking) and bad else None
