"""Good or defective, from the scores of good samples alone."""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from ad3d_jax.metrics import conformal
from ad3d_jax.metrics.regions import label_regions
from ad3d_jax.workdir.calibration import Calibration
from ad3d_jax.workdir.scores import VERDICTS

THRESHOLDS = ("threshold", "pixel_threshold")
RATES = {"false_alarm_rate": 0, "detection_rate": 1}  # and the label each is of


class Box(NamedTuple):
    """A region of a map that no good sample reaches; pixels, ends are exclusive."""

    top: int
    left: int
    bottom: int
    right: int
    peak: float  # largest value of the map in it


class Decision(NamedTuple):
    """What is decided of a batch at a rate of false alarms."""

    alpha: float  # rate of false alarms that is accepted
    p_value: np.ndarray  # [B] float64: share of good samples that look as bad
    defective: np.ndarray | None  # [B] bool, p_value <= alpha; None: see `note`
    threshold: float | None  # of the image score, which is above it if defective
    pixel_threshold: float | None  # of the map, likewise
    flagged: np.ndarray  # [B,H,W] bool, pixels whose value no good map reaches
    boxes: tuple[tuple[Box, ...], ...]  # of each sample, around its flagged regions
    note: str = ""  # why something is None

    def of(self, row: int) -> "Decision":
        """Returns what is decided of one sample, without the axis of the batch."""
        return self._replace(
            p_value=self.p_value[row],
            defective=None if self.defective is None else self.defective[row],
            flagged=self.flagged[row],
            boxes=self.boxes[row],
        )


def decide(
    calibration: Calibration, image: np.ndarray, maps: np.ndarray, alpha: float
) -> Decision:
    """Decides by conformal p-values, see `metrics.conformal`.

    The same rule judges images by their scores and pixels by the largest value of each
    good map: of good images at most the share `alpha` has a flagged pixel.

    Args:
        calibration: scores of good samples.
        image: [B] image scores, or [K,B] of each of K folds' models.
        maps: [B,H,W], or [K,B,H,W].
        alpha: rate of false alarms, between 0 and 1.

    Raises:
        ValueError: the rate is out of range, or a score is NaN.
    """
    conformal.check_alpha(alpha)
    good, peak, fold = calibration.image, calibration.peak, calibration.fold
    count, folds = len(good), calibration.folds
    image = np.asarray(image).reshape(folds, -1)
    maps = np.asarray(maps).reshape(folds, -1, *np.shape(maps)[-2:])
    p_value = conformal.p_values(good, fold, image)
    too_few = alpha < conformal.smallest_alpha(count)
    if too_few:
        flagged = np.zeros(maps.shape[1:], bool)
    elif folds == 1:
        flagged = maps[0] > conformal.threshold(peak, alpha)
    else:
        flagged = conformal.rejected(conformal.p_values(peak, fold, maps), count, alpha)
    note = ""
    if too_few:
        note = (
            f"{count} good samples are too few for alpha = {alpha:g}: the smallest "
            f"that is possible is {conformal.smallest_alpha(count):.4g}"
        )
    elif folds > 1:
        note = f"{folds} models decide together, which has no single threshold"
    single = folds == 1
    return Decision(
        alpha=float(alpha),
        p_value=p_value,
        defective=None if too_few else conformal.rejected(p_value, count, alpha),
        threshold=conformal.threshold(good, alpha) if single else None,
        pixel_threshold=conformal.threshold(peak, alpha) if single else None,
        flagged=flagged,
        boxes=boxes_of(flagged, maps.mean(axis=0) if folds > 1 else maps[0]),
        note=note,
    )


def operating_point(
    calibration: Calibration, decision: Decision, labels: np.ndarray
) -> dict[str, Any]:
    """Returns what metrics.json says of the decisions on a test split.

    Args:
        calibration: scores of good samples.
        decision: on the split.
        labels: [N] 0 = good, 1 = defective.
    """
    count, folds = len(calibration.image), calibration.folds
    notes = dict.fromkeys(THRESHOLDS, decision.note) if decision.note else {}
    rates: dict[str, float | None] = {}
    for name, label in RATES.items():
        of_kind = labels == label
        rates[name] = None
        if decision.defective is None:
            notes[name] = decision.note
        elif not of_kind.any():
            notes[name] = f"undefined: there is no {VERDICTS[label]} image"
        else:
            rates[name] = float(decision.defective[of_kind].mean())
    return {
        "alpha": decision.alpha,
        "threshold": decision.threshold,
        "pixel_threshold": decision.pixel_threshold,
        **rates,
        "calibration": {
            "source": calibration.source,
            "samples": count,
            "smallest_alpha": conformal.smallest_alpha(count),
            "bound": conformal.bound(count, folds, decision.alpha),
        },
        "notes": notes,
    }


def no_operating_point(alpha: float, reason: str) -> dict[str, Any]:
    """Returns the same where no decision was made: nulls with a reason."""
    missing = (*THRESHOLDS, *RATES, "calibration")
    return {
        "alpha": alpha,
        **dict.fromkeys(missing),
        "notes": dict.fromkeys(missing, reason),
    }


def boxes_of(flagged: np.ndarray, maps: np.ndarray) -> tuple[tuple[Box, ...], ...]:
    """Returns the boxes around the 8-connected flagged regions, the worst first.

    Args:
        flagged: [B,H,W] bool.
        maps: [B,H,W], whose largest value in a region is its peak.
    """
    return tuple(map(_boxes, flagged, maps))


def _boxes(flagged: np.ndarray, values: np.ndarray) -> tuple[Box, ...]:
    regions = label_regions(flagged[None])[0]
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(regions), start=1):
        own = values[rows, columns][regions[rows, columns] == number]
        place = rows.start, columns.start, rows.stop, columns.stop
        found.append(Box(*map(int, place), float(own.max())))
    return tuple(sorted(found, key=lambda box: (-box.peak, box)))
