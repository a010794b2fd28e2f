"""A run in its workdir: opened and checked, fitted, evaluated.

Of several processes all call this alike; the first holds the workdir and writes.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Batch, Dataset, System, Train
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.experiment import pretrained
from ad3d_jax.experiment.config import plain
from ad3d_jax.experiment.data import Data, category_of, open_data, with_sources
from ad3d_jax.experiment.facts import facts
from ad3d_jax.experiment.state import (
    build_system,
    fitted_state,
    initial_state,
    key_of,
)
from ad3d_jax.fit.fit import Options, count_steps, fit
from ad3d_jax.report import write_report
from ad3d_jax.workdir import maps, names
from ad3d_jax.workdir.checkpoint import Checkpointer, save_tree
from ad3d_jax.workdir.folder import open_workdir
from ad3d_jax.workdir.json_files import write_json
from ad3d_jax.workdir.log import Log, read_log
from ad3d_jax.workdir.scores import write_scores

MODES = ("fit", "eval", "fit_eval")


class Run(NamedTuple):
    """A run that holds its workdir, with its data open and its log begun."""

    config: ConfigDict
    system: System
    engine: engines.Engine
    folder: Path
    data: Data
    dataset: Dataset  # samples, and what else the phases read
    first: Batch
    facts: dict
    log: Log


def run(
    config: ConfigDict,
    workdir: str | os.PathLike = "",
    mode: str = "fit_eval",
    allow: Sequence[str] = (),
) -> dict:
    """Fits, evaluates or both; returns the metrics, {} where only fitted.

    Args:
        config: of the run.
        workdir: its folder; "" = the default.
        mode: one of MODES.
        allow: fields that may differ from the workdir's.

    Raises:
        ValueError: a mistake, named before any work.
        Preempted: the process was asked to stop; the same call goes on from there.
    """
    with opened(config, workdir, mode, allow) as begun:
        if "fit" in mode:
            train(begun)
        return evaluate(begun) if "eval" in mode else {}


def workdir_of(config: ConfigDict, workdir: str | os.PathLike = "") -> Path:
    """Returns the folder of a run, by default runs/<system>-<category>."""
    if os.fspath(workdir):
        return Path(workdir).expanduser()
    return Path("runs") / f"{config.system}-{category_of(config)}"


@contextlib.contextmanager
def opened(
    config: ConfigDict,
    workdir: str | os.PathLike,
    mode: str,
    allow: Sequence[str] = (),
    read: Callable[[ConfigDict], Data] = open_data,
) -> Iterator[Run]:
    """Gives a run, checked as far as it can be before any work.

    Args:
        config: of the run.
        workdir: its folder; "" = the default.
        mode: one of MODES, for the log.
        allow: fields that may differ from the workdir's.
        read: gives the data.
    """
    system = build_system(config)
    pretrained.check(config)
    engine = engines.make_engine(config.fit.engine)
    first_process = processes.is_first()
    told = json.dumps([plain(config), mode, list(allow)], sort_keys=True)
    processes.check_same("configuration", told)
    folder = workdir_of(config, workdir)
    held = contextlib.nullcontext()
    if first_process:
        held = open_workdir(folder, plain(config), allow)
    with held:
        data = read(config)
        recipe = {name: data.manifest[name] for name in ("recipe", "params")}
        if first_process:
            write_json(folder / names.RECIPE, recipe)
        dataset = with_sources(config, phases_due(config, system), data.samples)
        shared = processes.shared(dataset)
        first = next(shared.ordered("train", config.data.batch_size, 0))
        evaluation.check_needs(system, first)
        file = folder / names.LOG if first_process else os.devnull
        with Log(file, tensorboard=tensorboard(config, folder)) as log:
            told = facts(config, training_steps(config, system, dataset))
            log.write(kind="start", mode=mode, **told)
            yield Run(config, system, engine, folder, data, dataset, first, told, log)


def phases_due(config: ConfigDict, system: System) -> tuple:
    """Returns the phases that no file stands for."""
    ready = pretrained.artifacts(config)
    return tuple(
        p for p in system.phases if not p.artifact or p.artifact.name not in ready
    )


def tensorboard(config: ConfigDict, folder: Path) -> Path | None:
    """Returns where TensorBoard's files go, None unless asked for."""
    wanted = config.fit.tensorboard and processes.is_first()
    return folder / names.TENSORBOARD if wanted else None


def train(run: Run) -> None:
    """Runs the system's phases and saves the fitted state."""
    config, final = run.config, run.folder / names.FINAL
    if processes.word_of_first(str(final.exists())) == str(True):
        logging.info("%s is fitted already; remove it to start anew", run.folder)
        return
    state = initial_state(config, run.system, run.first)
    start = time.perf_counter()
    try:
        steps = run.folder / names.STEPS
        with Checkpointer(steps, keep=config.fit.keep) as checkpointer:
            state = fit(
                run.system,
                state,
                key_of(config, "fit"),
                processes.shared(run.dataset),
                fit_options(config),
                engine=run.engine,
                checkpointer=checkpointer,
                log=run.log,
            )
        if processes.is_first():
            save_tree(final, state)
    finally:
        run.log.write(kind="event", event="fit", seconds=time.perf_counter() - start)


def fit_options(config: ConfigDict) -> Options:
    """Returns how the configuration wants a fit to run."""
    return Options(
        batch_size=config.data.batch_size,
        seed=config.seed,
        max_grad_norm=config.fit.max_grad_norm,
        checkpoint_every=config.fit.checkpoint_every,
        log_every=config.fit.log_every,
        patience=config.fit.patience,
        artifacts=pretrained.artifacts(config),
        save_artifacts=pretrained.artifacts(config, "save_artifacts"),
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


def training_steps(config: ConfigDict, system: System, dataset: Dataset) -> int | None:
    """Returns the steps of all Train phases that are due, None where there is none."""
    due = system._replace(phases=phases_due(config, system))
    phases = count_steps(due, dataset, config.data.batch_size).phases
    steps = [phase.steps for phase in phases if isinstance(phase, Train)]
    return sum(steps) if steps else None


def evaluate(run: Run, program: compilation.Compiled | None = None) -> dict:
    """Scores the test split; writes maps, scores, metrics and the report.

    `program` is that of `evaluate.compile_score`. Of several processes all score; the
    first reads all samples, whose masks it needs, writes, and returns the metrics, the
    others {}.
    """
    config, engine, folder = run.config, run.engine, run.folder
    dataset = run.dataset if processes.is_first() else processes.shared(run.dataset)
    state = fitted_state(config, run.system, run.first, folder)
    key = key_of(config, "score")
    score = evaluation.compile_score(
        run.system, engine, key, state, limits(config, engine), program
    )
    size = config.eval.batch_size
    scored = evaluation.score_split(score, dataset, size)
    rows = evaluation.scored_rows(scored, run.data.rows("test"))
    if processes.is_first():
        write_scores(folder / names.SCORES, rows)
        maps.write_maps(folder / names.MAPS, rows, scored.maps, scored.masks)
    processes.wait()
    chosen = evaluation.chosen_rows(rows, config.eval.pictures_per_defect)
    found = evaluation.samples_in_full(score, dataset, chosen, size)
    if not processes.is_first():
        return {}
    in_full = {rows[row].name: arrays for row, arrays in found.items()}
    maps.write_samples(folder / names.SAMPLES, in_full)
    metrics = {
        **evaluation.measure(scored, rows),
        "seconds_fit": seconds_fit(folder),
        "peak_memory_bytes": memory.peak_bytes(),
        **run.facts,
    }
    if run.facts["steps"] is None:
        metrics["notes"]["steps"] = "nothing is trained by gradient steps"
    write_json(folder / names.METRICS, metrics)
    write_report(folder)
    return metrics


def seconds_fit(folder: Path) -> float | None:
    """Returns the wall time of all fits in the workdir but those that were killed."""
    log = read_log(folder / names.LOG)
    seconds = [line["seconds"] for line in log if line.get("event") == "fit"]
    return sum(seconds) if seconds else None
