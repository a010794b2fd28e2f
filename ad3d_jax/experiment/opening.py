"""A run that holds its workdir: checked as far as it can be before any work.

Of several processes all call this alike; the first holds the workdir and writes.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from ad3d_jax import evaluate
from ad3d_jax.base import Batch, System, Train, Tree
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.experiment import calibrate, origin, pretrained, surroundings
from ad3d_jax.experiment.config import plain
from ad3d_jax.experiment.data import category_of, open_data, with_sources
from ad3d_jax.experiment.facts import facts
from ad3d_jax.experiment.pretrained import Brought
from ad3d_jax.experiment.state import build_system
from ad3d_jax.fit.fit import Options
from ad3d_jax.fit.phases import check_phases, count_steps, due
from ad3d_jax.workdir import names
from ad3d_jax.workdir.checkpoint import has_tree
from ad3d_jax.workdir.folder import open_workdir
from ad3d_jax.workdir.log import Log
from ad3d_jax.workdir.places import local
from data_pipelines.calibration import FOLDS
from data_pipelines.reader import Reader
from data_pipelines.sources import Data


class Run(NamedTuple):
    """A run that holds its workdir, with its data open and its log begun."""

    config: ConfigDict
    system: System
    engine: engines.Engine
    folder: Path
    data: Data
    dataset: Reader  # samples, and what else the phases read
    first: Batch
    brought: Mapping[str, Tree]  # what files bring, by the parts' names
    phases: Sequence[str] | None  # names of those to run; None = all that are due
    facts: dict
    log: Log
    program: compilation.Compiled  # the score, see `evaluate.compile_score`


def workdir_of(config: ConfigDict, workdir: str | os.PathLike = "") -> Path:
    """Returns the folder of a run, by default runs/<system>-<category>."""
    if os.fspath(workdir):
        return local(workdir, "workdir")
    name = names.configuration_name(config.system)
    return Path("runs") / f"{name}-{category_of(config)}"


@contextlib.contextmanager
def opened(
    config: ConfigDict,
    workdir: str | os.PathLike,
    mode: str,
    allow: Sequence[str] = (),
    phases: Sequence[str] | None = None,
    read: Callable[[ConfigDict, System, Mapping | None], Data] = open_data,
    bring: Callable[[ConfigDict, System], Brought] = pretrained.bring,
) -> Iterator[Run]:
    """Gives a run, checked as far as it can be before any work.

    Args:
        config: of the run.
        workdir: its folder; "" = the default.
        mode: one of `run.MODES`.
        allow: fields that may differ from the workdir's.
        phases: names of those to run; None = all that no file stands for.
        read: gives the data, by what the recipe has learned, if it has.
        bring: gives what files bring.
    """
    system = build_system(config)
    options = fit_options(config, phases)
    check_phases(system, options)
    surroundings.check(config)
    folder = workdir_of(config, workdir)
    fitted = has_tree(folder / names.FINAL)
    calibrated = (folder / names.CALIBRATION).exists()
    to_fit = not fitted or (config.calibration.source == FOLDS and not calibrated)
    if "fit" in mode and (phases is not None or to_fit):
        brought = bring(config, system)
    else:  # what files brought was saved
        told = origin.read(folder).weights if fitted else {}
        if "fit" in mode:
            told = pretrained.seen(config, system, told)
        brought = Brought({}, told)
    engine = engines.make_engine(config.fit.engine)
    first_process = processes.is_first()
    told = json.dumps([plain(config), mode, list(allow)], sort_keys=True)
    processes.check_same("configuration", told)
    held = contextlib.nullcontext()
    if first_process:
        held = open_workdir(folder, plain(config), allow)
    with held:
        learned = None
        if "fit" not in mode:
            learned = origin.to_score_with(folder, config).recipe["params"]
        data = read(config, system, learned)
        calibrate.check(system, data)
        dataset = with_sources(config, due(system, options).phases, data.dataset)
        shared = processes.shared(dataset)
        first = next(shared.ordered("train", config.data.batch_size, 0))
        evaluate.check_needs(system, first)
        file = folder / names.LOG if first_process else os.devnull
        with Log(file, tensorboard=tensorboard(config, folder)) as log:
            steps = training_steps(system, options, dataset)
            told = facts(config, steps, brought.facts)
            log.write(kind="start", mode=mode, **told)
            yield Run(
                *(config, system, engine, folder, data, dataset, first),
                *(brought.trees, phases, told, log),
                evaluate.score_program(system, engine),
            )


def fit_options(config: ConfigDict, phases: Sequence[str] | None = None) -> Options:
    """Returns how the configuration wants a fit to run, of single phases or all."""
    return Options(
        batch_size=config.data.batch_size,
        seed=config.seed,
        max_grad_norm=config.fit.max_grad_norm,
        checkpoint_every=config.fit.checkpoint_every,
        log_every=config.fit.log_every,
        patience=config.fit.patience,
        loaded=pretrained.loaded(config),
        phases=None if phases is None else tuple(phases),
        progress=processes.is_first(),
        device_memory_bytes=config.fit.device_memory_bytes,
        host_memory_bytes=config.fit.host_memory_bytes,
    )


def limits(config: ConfigDict, engine: engines.Engine) -> memory.Limits:
    """Returns the memory that there is, as the configuration or the machine says."""
    fit_config = config.fit
    return memory.measure(
        engine.mesh.devices.flat,
        fit_config.device_memory_bytes,
        fit_config.host_memory_bytes,
    )


def training_steps(system: System, options: Options, dataset: Reader) -> int | None:
    """Returns the steps of all Train phases that are due, None where there is none."""
    phases = count_steps(due(system, options), dataset, options.batch_size).phases
    steps = [phase.steps for phase in phases if isinstance(phase, Train)]
    return sum(steps) if steps else None


def tensorboard(config: ConfigDict, folder: Path) -> Path | None:
    """Returns where TensorBoard's files go, None unless asked for."""
    wanted = config.fit.tensorboard and processes.is_first()
    return folder / names.TENSORBOARD if wanted else None
