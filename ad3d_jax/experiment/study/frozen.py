"""Frozen features that the trials of a study share: what one computed, all find.

A worker's store (`Grounds.store`) outlives its trials. Features in it are known by what
they are computed of, so that a trial of other weights, another recipe or another image
size never meets those of this one, and a trial of other layers computes these alone.
"""

from collections.abc import Callable, Iterator
from functools import partial

from ad3d_jax.base import Batch, Dataset, State
from ad3d_jax.devices.memory import MemoryLimitError
from ad3d_jax.experiment.opening import fit_options
from ad3d_jax.experiment.study.stages import Trial
from ad3d_jax.fit.cache import Cache, with_features
from ad3d_jax.fit.monitor import Interruption
from ad3d_jax.fit.run import Run


def feeding(
    trial: Trial, state: State, dataset: Dataset, split: str
) -> Callable[[Iterator[Batch]], Iterator[Batch]] | None:
    """Returns what adds kept features to the batches of a split that is scored.

    Those that are not kept yet are computed. None where the system has none, where no
    trial shares them, or where there is no room: the score then computes them itself.

    Raises:
        Preempted: the process was asked to stop.
    """
    if trial.system.cache is None or trial.store is None:
        return None
    config, cache = trial.config, Cache(trial.store)
    options = fit_options(config)._replace(batch_size=config.eval.batch_size)
    with Interruption() as interruption:
        run = Run(
            *(trial.system, dataset, options, trial.engine),
            *(None, None, interruption, cache),
        )
        try:
            features = cache.features(run, split, state)
        except MemoryLimitError:
            return None
    return partial(with_features, features=features)
