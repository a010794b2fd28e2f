"""One cell: a setting fitted once, scored once on planted and once on real defects."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import State
from ad3d_jax.experiment.data import open_data, rows_of
from ad3d_jax.experiment.opening import fit_options, limits
from ad3d_jax.experiment.state import build_system, initial_state, key_of
from ad3d_jax.experiment.study import frozen, objective
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.stages import Trial
from ad3d_jax.fit.fit import fit
from ad3d_jax.workdir import names
from ad3d_jax.workdir.log import Log
from data_pipelines import layout, planted, synthetic
from data_pipelines.arrangements import MVTEC_3D
from experiments.benchmarks.selection import values
from experiments.benchmarks.selection.grids import Grid, Point

REAL = "test"  # the split whose samples are real; it serves the table alone
HOST_SHARE = 0.2  # of the training samples that are used


class Class(NamedTuple):
    """A class, and how much of it is used."""

    category: str
    fields: Mapping[str, Any]  # of the configuration
    goal: objective.Goal


def class_of(category: str, data: str, train: int) -> Class:
    """Returns a class of `data`, or of the sample set.

    Args:
        category: its name; the sample set's names are its own.
        data: folder of classes, for all other names.
        train: training samples that are used, hosts of planted defects among them; the
            others are reserved, as for calibration.

    Raises:
        DatasetError: there is no such class.
    """
    root, count, share = "", train, HOST_SHARE
    if category not in synthetic.CATEGORIES:
        root = data
        count = len(layout.scan(data, category, MVTEC_3D).split("train"))
    own = {"data.root": root, "data.category": category, "calibration.source": "none"}
    if not root:
        own["data.sample_set.train"] = train
    elif train < count:
        share *= train / count
        own |= {
            "calibration.source": "held_out",
            "calibration.share": 1 - train / count,
        }
    planting = planted.Settings(hold_out=share)
    goal = objective.Goal(stages=(), planting=planting)
    return Class(category, own, goal)


class Fitted:
    """The last fitted state, for settings that differ in how they score alone."""

    def __init__(self, grid: Grid):
        """Begins without one."""
        self._grid, self._known = grid, (None, None)

    def state(self, trial: Trial, point: Point) -> State:
        """Returns the state of a setting, fitted if need be."""
        key = {n: x for n, x in point.items() if n not in self._grid.scoring}
        if self._known[0] != key:
            self._known = key, _fitted(trial)
        return self._known[1]


def _fitted(trial: Trial) -> State:
    config, system, dataset, first, brought, engine, store = trial
    state = initial_state(config, system, first, brought)
    key, options = key_of(config, "fit"), fit_options(config)
    return fit(system, state, key, dataset, options, engine, store=store)


def cell(
    config: ConfigDict, own: Class, grounds: Grounds, fitted: Fitted, point: Point
) -> dict[str, Any]:
    """Returns what is kept of a setting on a class.

    Raises:
        ValueError: the configuration cannot be fitted, or its loss diverges.
    """
    start = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = objective.Task(config, folder, lambda *_: False)
        with Log(folder / names.LOG) as log:
            trial, ground = objective.begin(task, own.goal, grounds, log)
    state = fitted.state(trial, point)
    seen, found = _scored(trial, ground, state)
    # The recipe learned what it knows from training samples alone.
    manifest = open_data(config, build_system(config)).manifest
    rows = rows_of(manifest, REAL)
    labels = np.array([row.label for row in rows])
    return {
        "category": own.category,
        "system": config.system,
        "variant": config.variant,
        "setting": dict(point),
        "image_size": config.data.image_size,
        "fitted_on": ground.samples.size("train"),
        "hosts": sum(not row.label for row in ground.rows),
        "planted_samples": sum(row.label for row in ground.rows),
        "real_samples": {"good": int(sum(labels == 0)), "bad": int(sum(labels))},
        "planted": values.planted_values(seen, ground.rows),
        "real": values.real_values(found, rows),
        "draws": values.drawn_values(found, labels, values.draws(labels)),
        "seconds": time.perf_counter() - start[0],
        "processor_seconds": time.process_time() - start[1],
    }


def _scored(trial: Trial, ground: Any, state: State) -> Iterator[evaluation.Scored]:
    """Yields the scores of the planted, then of the real samples."""
    config, engine = trial.config, trial.engine
    score = evaluation.compile_score(
        trial.system, engine, key_of(config, "score"), state, limits(config, engine)
    )
    for dataset, split in ((ground.planted, planted.SPLIT), (ground.samples, REAL)):
        feed = frozen.feeding(trial, state, dataset, split)
        size = config.eval.batch_size
        yield evaluation.score_split(score, dataset, size, split, extend=feed)
