"""The scores of good samples that a fitted state is kept with: calibration.json."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ad3d_jax.workdir.json_files import read_json, write_json
from ad3d_jax.workdir.unreadable import reading


class Calibration(NamedTuple):
    """Scores of good samples that the state was fitted without; n of them."""

    source: str  # validation | held_out | folds
    names: tuple[str, ...]  # of the samples, "defect/stem"
    image: np.ndarray  # [n] float32, image scores
    peak: np.ndarray  # [n] float32, the largest value of each map
    fold: np.ndarray  # [n] int32, the model that scored it; 0 without folds
    low: float  # of all maps: the median, drawn as nothing
    high: float  # the 99.9th percentile, drawn as certain

    @property
    def folds(self) -> int:
        """Returns the number of models that scored."""
        return int(self.fold.max()) + 1


def write_calibration(path: str | Path, calibration: Calibration) -> None:
    """Writes the scores, whole or not at all; float32 survives to the last bit."""
    write_json(path, calibration._asdict())


def read_calibration(path: str | Path) -> Calibration | None:
    """Returns what was written; None where there is no file.

    Raises:
        UnreadableError: the file is damaged.
    """
    if not Path(path).exists():
        return None
    found = read_json(path, needs=Calibration._fields)
    with reading(path):
        calibration = Calibration(
            source=str(found["source"]),
            names=tuple(map(str, found["names"])),
            image=np.array(found["image"], np.float32),
            peak=np.array(found["peak"], np.float32),
            fold=np.array(found["fold"], np.int32),
            low=float(found["low"]),
            high=float(found["high"]),
        )
        _check(calibration)
    return calibration


def _check(calibration: Calibration) -> None:
    count = len(calibration.names)
    for name in ("image", "peak", "fold"):
        array = getattr(calibration, name)
        if array.shape != (count,) or not count:
            raise ValueError(
                f"{name}: expected a value for each of {count} samples, found "
                f"{list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers")
    if calibration.fold.min() < 0:
        raise ValueError("fold: expected numbers from 0 on")
