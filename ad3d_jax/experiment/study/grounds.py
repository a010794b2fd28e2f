"""The data that trials are fitted on and judged on."""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ad3d_jax.base import System
from ad3d_jax.experiment.data import data_folder, open_data
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.workdir.scores import Row
from data_pipelines import planted, planting
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
            DatasetError: files are missing or damaged, or nothing can be planted.
        """
        settings = settings._replace(kinds=kinds_for(system, settings.kinds))
        key = (config.data.to_json(), system.needs_fit, system.needs_score, settings)
        if self._known is None or self._known[0] != key:
            self._known = key, self._opened(config, system, settings)
        return self._known[1]

    def _opened(
        self, config: ConfigDict, system: System, settings: planted.Settings
    ) -> Ground:
        prepared = open_data(config, system).prepared
        category = prepared.manifest["category"]
        samples = load_resident(prepared)
        split, numbers = planted.hosts(prepared, settings.hold_out)
        if split == "train":
            left = np.setdiff1d(np.arange(samples.size("train")), numbers)
            samples = samples.only("train", left)
        root, _ = data_folder(config)
        judged = planted.open_planted(root, prepared, settings)
        rows = [
            Row(category, row["defect"], row["stem"], row["id"], row["label"])
            for row in judged.samples
        ]
        return Ground(samples, judged.dataset, rows, category)


def kinds_for(system: System, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the kinds of defects that a system can see by what it scores."""
    seen = {name.removeprefix("extras.") for name in system.needs_score}
    if "rgb" not in seen:
        return tuple(kind for kind in kinds if kind in planting.SHAPE) or kinds
    if seen <= {"rgb"}:
        return tuple(kind for kind in kinds if kind in planting.COLOUR) or kinds
    return kinds
