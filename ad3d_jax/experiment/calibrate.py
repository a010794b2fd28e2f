"""Scores good samples that no fit saw, so that decisions can be made from them."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ad3d_jax.base import Batch, Dataset, Scores, System
from ad3d_jax.devices import processes
from ad3d_jax.experiment.data import calibration_names
from ad3d_jax.workdir import names
from ad3d_jax.workdir.calibration import Calibration
from data_pipelines.calibration import FOLDS, VALIDATION
from data_pipelines.reader import Reader
from data_pipelines.sources import CALIBRATION, Data

DRAWN = 50.0, 99.9  # percentiles of good maps between which heat maps are drawn
STRIDE = 7  # of all values, every seventh serves for them


class Good(NamedTuple):
    """What a model says of good samples that it was fitted without."""

    numbers: np.ndarray  # [n] place of each among all that calibrate
    image: np.ndarray  # [n] float32
    peak: np.ndarray  # [n] float32
    values: np.ndarray  # some of all maps' values


def check(system: System, data: Data, whole: bool = True) -> None:
    """Checks that no phase sees the samples that calibrate.

    Args:
        system: that is fitted.
        data: its class.
        whole: whether a run is alone; the members of a population have no folds.

    Raises:
        ValueError: a phase does.
    """
    source = data.calibration.source
    for phase in system.phases:
        where = f"phase {phase.name} of {system.name} reads {phase.source}"
        if source == VALIDATION and phase.source == "validation":
            raise ValueError(
                f"calibration.source=validation: {where}; use held_out, folds or none"
            )
        if source == FOLDS and phase.source == "train_all":
            raise ValueError(
                f"calibration.source=folds: {where}; use validation, held_out or none"
            )
    if source == FOLDS and not whole:
        raise ValueError(
            "calibration.source=folds: the members of a population are fitted once; "
            "use validation, held_out or none"
        )


def folds_of(data: Data, dataset: Reader) -> Iterator[tuple[int, np.ndarray, Reader]]:
    """Yields each fold's number, the numbers of its samples, and a reader for it.

    The reader's train is without them; its source "calibration" holds them alone.
    """
    fold = data.calibration.fold
    for number in np.unique(fold):
        own = np.flatnonzero(fold == number)
        others = dataset.only("train", np.flatnonzero(fold != number))
        yield int(number), own, others.only(CALIBRATION, own)


def score_good(
    score: Callable[[Batch], Scores],
    dataset: Dataset,
    batch_size: int,
    numbers: np.ndarray,
) -> Good:
    """Scores the source "calibration" of a dataset.

    Args:
        score: of `evaluate.compile_score`.
        dataset: with that source.
        batch_size: rows at a time.
        numbers: [n] place of each of its samples among all that calibrate.
    """
    image, peak, values = [], [], []
    total = dataset.size(CALIBRATION)
    with tqdm(
        total=total, desc="calibrate", unit="image", disable=not processes.is_first()
    ) as bar:
        for batch in dataset.ordered(CALIBRATION, batch_size, 0):
            real = np.asarray(batch.weight) > 0
            scores = score(batch)
            maps = np.asarray(scores.map)[real]
            image.append(np.asarray(scores.image)[real])
            peak.append(maps.reshape(len(maps), -1).max(axis=1))
            values.append(maps.ravel()[::STRIDE])
            bar.update(len(maps))
    return Good(numbers, *map(np.concatenate, (image, peak, values)))


def calibration_of(data: Data, models: Iterable[Good]) -> Calibration:
    """Returns the scores of all models, in the order of the samples."""
    found = list(models)
    count = sum(len(good.numbers) for good in found)
    image, peak = np.zeros((2, count), np.float32)
    fold = np.zeros(count, np.int32)
    for number, good in enumerate(found):
        image[good.numbers], peak[good.numbers] = good.image, good.peak
        fold[good.numbers] = number
    low, high = np.percentile(np.concatenate([good.values for good in found]), DRAWN)
    return Calibration(
        source=data.calibration.source,
        names=calibration_names(data),
        image=image,
        peak=peak,
        fold=fold,
        low=float(low),
        high=float(max(high, np.nextafter(np.float32(low), np.float32(np.inf)))),
    )


def fold_places(calibration: Calibration | None) -> list[str]:
    """Returns where the states of the folds are in a workdir; [] without folds."""
    count = 0 if calibration is None else calibration.folds
    return [names.FOLD.format(number) for number in range(count)] if count > 1 else []
