"""Which good samples calibrate a fitted system: those that its fit does not see."""

from typing import NamedTuple

import numpy as np

from data_pipelines.errors import DatasetError
from data_pipelines.prepared import Prepared

VALIDATION, HELD_OUT, FOLDS, NONE = "validation", "held_out", "folds", "none"
AUTO = "auto"  # validation where there is such a split, else held_out
CHOICES = (AUTO, VALIDATION, HELD_OUT, FOLDS, NONE)


class Settings(NamedTuple):
    """What a configuration says of calibration."""

    source: str = NONE  # one of CHOICES
    share: float = 0.2  # of train, that held_out keeps from the fit
    folds: int = 5  # parts of train
    seed: int = 0  # of the choice of samples


class Split(NamedTuple):
    """The samples that calibrate."""

    source: str  # validation | held_out | folds | none
    held: np.ndarray  # numbers of training samples that no fit sees, in order
    fold: np.ndarray  # [training samples] part of each; empty without folds
    note: str = ""  # why there are none

    @property
    def split(self) -> str:
        """Returns the split of the class whose samples calibrate."""
        return "validation" if self.source == VALIDATION else "train"

    def reserves(self, size: int) -> np.ndarray:
        """Returns which of `size` training samples no fit sees, [size] bool."""
        return np.isin(np.arange(size), self.held)

    def numbers(self, prepared: Prepared) -> np.ndarray:
        """Returns the numbers of the samples that calibrate, in that split."""
        if self.source == HELD_OUT:
            return self.held
        size = 0 if self.source == NONE else len(prepared.rows(self.split))
        return np.arange(size)


def choose(settings: Settings, prepared: Prepared) -> Split:
    """Returns which samples of a class calibrate.

    Raises:
        DatasetError: the class has too few samples for the source that is named.
    """
    validation, train = (len(prepared.rows(s)) for s in ("validation", "train"))
    source, nothing = settings.source, np.zeros(0, np.int64)
    held = round(train * settings.share)
    if source == AUTO:
        source = VALIDATION if validation else HELD_OUT
        if source == HELD_OUT and not 0 < held < train:
            note = (
                f"there is no validation split, and {train} training samples are too "
                "few to hold some out"
            )
            return Split(NONE, nothing, nothing, note)
    if source == NONE:
        return Split(NONE, nothing, nothing, f"calibration.source is {NONE}")
    name = f"calibration.source={source}: {prepared.manifest['category']}"
    if source == VALIDATION and not validation:
        raise DatasetError(
            f"{name} has no validation split; use {HELD_OUT}, {FOLDS} or {NONE}"
        )
    if source == HELD_OUT and not 0 < held < train:
        raise DatasetError(
            f"{name} has {train} training samples, of which a share of "
            f"{settings.share:g} leaves none on one side"
        )
    if source == FOLDS and train < settings.folds:
        raise DatasetError(
            f"{name} has {train} training samples, expected one for each of "
            f"{settings.folds} folds at least"
        )
    order = np.random.default_rng(settings.seed).permutation(train)
    if source == HELD_OUT:
        return Split(source, np.sort(order[:held]), nothing)
    fold = np.zeros(train, np.int64)
    fold[order] = np.arange(train) % settings.folds
    return Split(source, nothing, fold if source == FOLDS else nothing)
