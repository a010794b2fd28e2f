"""What is said of samples by whatever prepares, scores and decides."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from ad3d_jax.base import Scores
from ad3d_jax.decision import Box, Decision
from ad3d_jax.experiment.prediction.pictures import in_picture


class Inspection(NamedTuple):
    """What a detector says of samples; without the axis B of a single one."""

    map: np.ndarray  # [B,H,W,1] float32, at the recipe's size
    image: np.ndarray  # [B] float32
    parts: Mapping[str, np.ndarray]  # maps and images by name, each [B,H,W,C]
    match: np.ndarray | None  # [B,5] int32, see `base.MATCH`
    decision: Decision | None  # None where nothing was calibrated


class Scorer(Protocol):
    """A detector, or several that score as one."""

    def score_batch(self, batch: Any) -> Scores:
        """Returns the scores of what was prepared."""

    def decide(self, batch: Any, scores: Scores, alpha: float | None) -> Any:
        """Returns what is decided of what was scored."""


def inspected(
    scorer: Scorer, batch: Any, single: bool, alpha: float | None
) -> Inspection:
    """Returns what is said of samples.

    Args:
        scorer: who says it.
        batch: what it prepared of them.
        single: whether they are one that came without the axis B.
        alpha: share of good samples that may be called defective; None = as configured.
    """
    scores = scorer.score_batch(batch)
    decision = scorer.decide(batch, scores, alpha)
    if single:
        scores = jax.tree.map(lambda x: x[0], scores)
        decision = decision and decision.of(0)
    return Inspection(*scores, decision)


def placed(
    recipe: Mapping[str, Any], found: Inspection, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Returns map and boxes of one sample at the size of its picture.

    The map is [h,w] float32, interpolated, NaN where the recipe cropped.

    Args:
        recipe: name and parameters of the preprocessing.
        found: of one sample.
        size: (h, w) of the picture.
    """
    boxes = () if found.decision is None else found.decision.boxes
    return in_picture(recipe, found.map[..., 0], boxes, size)
