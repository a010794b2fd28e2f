"""Judging a trial before its end, so that a hopeless one is pruned."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ad3d_jax.base import Batch, Dataset, State, System, Train, Tree
from ad3d_jax.devices import engines
from ad3d_jax.experiment.opening import fit_options
from ad3d_jax.experiment.state import initial_state, key_of
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.fit.fit import fit
from ad3d_jax.fit.positions import unpack
from ad3d_jax.workdir.checkpoint import Checkpointer
from ad3d_jax.workdir.json_files import read_json, write_json
from ad3d_jax.workdir.log import Log


class Pruned(Exception):  # noqa: N818 (no error)
    """The trial is not worth going on with."""


class Trial(NamedTuple):
    """What is fitted, and on what."""

    config: ConfigDict
    system: System  # with its steps counted
    dataset: Dataset
    first: Batch
    brought: Mapping[str, Tree]  # what files bring, see `pretrained`
    engine: engines.Engine
    store: Store | None = None  # of features that other trials use, too


class Watch:
    """Reports a trial's value at its stages, once each, over all of its attempts.

    Args:
        file: where the values are kept.
        stages: percent, rising.
        report: (percent, value, None) -> whether to prune.
    """

    def __init__(
        self,
        file: Path,
        stages: tuple[int, ...],
        report: Callable[[int, float, None], bool],
    ):
        self._file, self._stages, self._report = file, stages, report
        self._known = read_json(file) if file.exists() else {}

    def begin(self) -> None:
        """Reports what earlier attempts saw; raises Pruned as `note` does."""
        for stage, value in self._known.items():
            self._tell(int(stage), value)

    def due(self, percent: float) -> int | None:
        """Returns the last stage that is reached, None if it was reported before."""
        reached = [stage for stage in self._stages if stage <= percent]
        if not reached or str(reached[-1]) in self._known:
            return None
        return reached[-1]

    def first(self) -> int | None:
        """Returns the first stage, None if there is none or it was reported before."""
        return self.due(self._stages[0]) if self._stages else None

    def note(self, stage: int, value: float) -> None:
        """Reports the value at a stage; raises Pruned where that is bad enough."""
        if math.isfinite(value):
            self._known = {**self._known, str(stage): value}
            write_json(self._file, self._known)
            self._tell(stage, value)

    def _tell(self, stage: int, value: float) -> None:
        if self._report(stage, value, None):
            raise Pruned(f"pruned at {stage} %")


class Shown:
    """A checkpointer that also shows each tree that is saved to `look`."""

    def __init__(self, checkpointer: Checkpointer, look: Callable[[Tree], None] | None):
        self._checkpointer, self._look = checkpointer, look

    def save(self, step: int, tree: Tree) -> None:
        """Saves a tree, then shows it."""
        self._checkpointer.save(step, tree)
        if self._look is not None:
            self._look(tree)

    def latest(self) -> tuple[int, Tree] | None:
        """Returns the newest whole step, see `Checkpointer.latest`."""
        return self._checkpointer.latest()


def fitted(
    trial: Trial, folder: Path, log: Log, judge: Callable[[State], float], watch: Watch
) -> State:
    """Returns the fitted state, from the newest checkpoint in `folder` on.

    Raises:
        Pruned: the watch said so.
    """
    config, system, dataset, first, brought, engine, store = trial
    watch.begin()
    state = initial_state(config, system, first, brought)
    key, options = key_of(config, "fit"), fit_options(config)
    trained = [n for n, p in enumerate(system.phases) if isinstance(p, Train)]
    if trained:
        last = trained[-1]
        quarter = max(1, system.phases[last].steps // 4)
        every = min(options.checkpoint_every or quarter, quarter)
        options = options._replace(checkpoint_every=every)
        look = partial(_look, trial, state, last, judge, watch)
    else:
        look = None
        if store is None or system.cache is None:
            _look_at_part(trial, state, judge, watch)
    with Checkpointer(folder, keep=2) as checkpointer:
        watched = Shown(checkpointer, look)
        return fit(
            *(system, state, key, dataset, options, engine, watched, log),
            store=store,
        )


def _look(
    trial: Trial,
    state: State,
    last: int,
    judge: Callable[[State], float],
    watch: Watch,
    tree: Tree,
) -> None:
    """Judges a checkpoint of the last Train phase where a stage is due.

    What follows that phase is done for the judgement alone.
    """
    config, system, dataset, _, _, engine, store = trial
    position = unpack(system, state, tree)
    if position.carry is None or position.phase != last:
        return
    stage = watch.due(100 * position.step / system.phases[last].steps)
    if stage is None:
        return
    carry = position.carry
    now = position.state._replace(params=carry.params, extra=carry.extra)
    rest = system._replace(phases=system.phases[last + 1 :])
    if rest.phases:
        key, options = key_of(config, "fit"), fit_options(config)
        now = fit(rest, now, key, dataset, options, engine, store=store)
    watch.note(stage, judge(now))


def _look_at_part(
    trial: Trial, state: State, judge: Callable[[State], float], watch: Watch
) -> None:
    """Judges a memory bank of a part of the training samples, at the first stage.

    A bank has no steps; later stages would cost as much as they could save. Where
    trials share their features, so would this one.
    """
    config, system, dataset, _, _, engine, store = trial
    stage = watch.first()
    if stage is None:
        return
    size = dataset.size("train")
    count = max(1, size * stage // 100)
    part = dataset.only("train", np.arange(count) * size // count)
    key, options = key_of(config, "fit"), fit_options(config)
    fitted = fit(system, state, key, part, options, engine, store=store)
    watch.note(stage, judge(fitted))
