"""The data that trials are fitted on and judged on."""

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


class Grounds:
    """Opens the data that configurations name; the last is kept for the next trial."""

    def __init__(self, store: Store | None = None):
        """Begins; `store` keeps frozen features for all trials, None = for none."""
        self.store = store
        self._known: tuple[Any, Ground] | None = None

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
        if self._known is None or self._known[0] != key:
            self._known = key, self._opened(config, system, settings)
        return self._known[1]

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
