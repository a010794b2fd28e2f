"""The data that trials are fitted on and judged on."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ad3d_jax.base import System
from ad3d_jax.experiment.data import data_folder, open_data
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.workdir.scores import Row
from data_pipelines import planted
from data_pipelines.calibration import FOLDS
from data_pipelines.errors import DatasetError
from data_pipelines.reader import Reader
from data_pipelines.resident import load_resident


class Ground(NamedTuple):
    """The data of a class: what is fitted on and what is judged on."""

    samples: Reader
    planted: Reader
    rows: list[Row]
    category: str


def part_of(ground: Ground, share: float) -> Ground:
    """Returns a share of what is fitted on, and of the planted samples of each kind.

    They lie at equal distances, so that each share is the same for all trials.

    Args:
        ground: the whole.
        share: above 0, at most 1.
    """
    if share == 1:
        return ground
    kinds: dict[str, list[int]] = {}
    for number, row in enumerate(ground.rows):
        kinds.setdefault(row.defect if row.label else "", []).append(number)
    chosen = sorted(n for own in kinds.values() for n in _spread(own, share))
    train = np.arange(ground.samples.size("train"))
    return ground._replace(
        samples=ground.samples.only("train", np.array(_spread(train, share))),
        planted=ground.planted.only(planted.SPLIT, np.array(chosen)),
        rows=[ground.rows[number] for number in chosen],
    )


def _spread(numbers: Sequence[int], share: float) -> list[int]:
    """Returns a share of numbers at equal distances, two at least."""
    size = len(numbers)
    count = min(size, max(2, math.ceil(size * share)))
    return [int(numbers[k * size // count]) for k in range(count)]


class Grounds:
    """Opens the data that configurations name; the last ones are kept for later trials.

    Args:
        store: keeps frozen features for all trials, None = for none.
        kept: how many.
    """

    def __init__(self, store: Store | None = None, kept: int = 1):
        self.store, self._kept = store, kept
        self._known: list[tuple[Any, Ground]] = []

    def open(
        self, config: ConfigDict, system: System, settings: planted.Settings
    ) -> Ground:
        """Returns the data of a configuration, prepared and planted if need be.

        Raises:
            DatasetError: files are missing or damaged, nothing can be planted, or all
                training samples calibrate.
        """
        own = config.data.to_json(), config.calibration.to_json()
        key = (own, system.needs_fit, system.needs_score, settings)
        found = next((ground for known, ground in self._known if known == key), None)
        if found is None:
            self._known = self._known[: self._kept - 1]  # before the next is opened
            found = self._opened(config, system, settings)
        others = [each for each in self._known if each[0] != key]
        self._known = [(key, found), *others][: self._kept]
        return found

    def _opened(
        self, config: ConfigDict, system: System, settings: planted.Settings
    ) -> Ground:
        data = open_data(config, system)
        prepared, reserved = data.prepared, data.calibration.held
        if data.calibration.source == FOLDS:
            raise DatasetError(
                "calibration.source=folds: all training samples calibrate, and defects "
                "are planted into some of them to choose a setting; use validation, "
                "held_out or none"
            )
        category = prepared.manifest["category"]
        samples = load_resident(prepared)
        # What selects does not calibrate, and what calibrates takes no part.
        hosts = planted.hosts(prepared, settings.hold_out, reserved)
        kept = np.concatenate([hosts, reserved])
        left = np.setdiff1d(np.arange(samples.size("train")), kept)
        samples = samples.only("train", left)
        root, _ = data_folder(config)
        judged = planted.open_planted(root, prepared, settings, reserved)
        rows = [
            Row(category, row["defect"], row["stem"], row["id"], row["label"])
            for row in judged.samples
        ]
        return Ground(samples, judged.dataset, rows, category)
