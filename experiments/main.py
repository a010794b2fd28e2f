"""Trains a system, scores the test split and writes the report.

    python -m experiments.main --config=experiments/configs/dbrn.py[:variant] \
        --workdir=DIR [--config.FIELD=VALUE …] [--mode=fit|eval|fit_eval]

On several machines, see docs/launching.md: the same command on each, with
--coordinator=HOST:PORT --processes=N --process=I, or with --detect_cluster.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from absl import app, flags, logging
from ml_collections import ConfigDict

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Batch, Dataset, System, Train
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.fit.fit import Options, Preempted, count_steps, fit
from ad3d_jax.report import write_report
from ad3d_jax.workdir.checkpoint import Checkpointer, save_tree
from ad3d_jax.workdir.folder import open_workdir, write_json
from ad3d_jax.workdir.log import Log, read_log
from data_pipelines import sources
from data_pipelines.errors import DiskFullError
from data_pipelines.reader import Reader
from experiments import flag_errors, session, weight_files

MODES = ("fit", "eval", "fit_eval")
EXIT_PREEMPTED = 75
EXIT_DISK_FULL = 3


class Data(NamedTuple):
    """A class as it was prepared."""

    manifest: dict
    samples: Reader


class Opened(NamedTuple):
    """A run that holds its workdir, with its data open and its log begun."""

    config: ConfigDict
    system: System
    engine: engines.Engine
    folder: Path
    data: Data
    dataset: Dataset  # samples, and images where the system reads them
    first: Batch
    facts: dict
    log: Log


def run(config: ConfigDict, workdir: str, mode: str, allow: Sequence[str] = ()) -> dict:
    """Does what the flags say and returns the metrics, {} where only fitted."""
    with opened(config, workdir, mode, allow) as begun:
        if "fit" in mode:
            train(begun)
        return evaluate(begun) if "eval" in mode else {}


def open_data(config: ConfigDict) -> Data:
    """Returns the data that the configuration names, prepared if need be."""
    prepared, samples = session.open_class(config, session.build_system(config))
    return Data(prepared.manifest, samples)


@contextlib.contextmanager
def opened(
    config: ConfigDict,
    workdir: str,
    mode: str,
    allow: Sequence[str] = (),
    read: Callable[[ConfigDict], Data] = open_data,
) -> Iterator[Opened]:
    """Gives a run, checked as far as it can be before any work.

    Of several processes the first alone holds the workdir and writes to it.

    Args:
        config: of the run.
        workdir: its folder; "" = the default.
        mode: one of MODES, for the log.
        allow: fields that may differ from the workdir's.
        read: gives the data.
    """
    system = session.build_system(config)
    weight_files.check(config)
    engine = engines.make_engine(config.fit.engine)
    first_process = processes.is_first()
    told = json.dumps([session.plain(config), mode, list(allow)], sort_keys=True)
    processes.check_same("configuration", told)
    _, category = session.data_folder(config)
    folder = Path(workdir or f"runs/{config.system}-{category}").expanduser()
    held = contextlib.nullcontext()
    if first_process:
        held = open_workdir(folder, session.plain(config), allow)
    with held:
        data = read(config)
        recipe = {name: data.manifest[name] for name in ("recipe", "params")}
        if first_process:
            write_json(folder / "recipe.json", recipe)
        dataset = open_dataset(config, system, data.samples)
        shared = processes.shared(dataset)
        first = next(shared.ordered("train", config.data.batch_size, 0))
        evaluation.check_needs(system, first)
        file = folder / "log.jsonl" if first_process else os.devnull
        with Log(file, tensorboard=tensorboard(config, folder)) as log:
            steps = training_steps(config, system, dataset)
            facts = session.facts(config, category, steps)
            log.write(kind="start", mode=mode, **facts)
            yield Opened(
                config, system, engine, folder, data, dataset, first, facts, log
            )


def open_dataset(config: ConfigDict, system: System, samples: Reader) -> Reader:
    """Returns the reader of a class joined with the images of a pretraining."""
    if not any(p.source == "images" for p in phases_due(config, system)):
        return samples
    data, key = config.data, session.key_of(config, "images")
    wanted = sources.Images(key, data.images, data.procedural_images, data.image_size)
    return samples.joined({"images": partial(sources.natural_images, wanted)})


def phases_due(config: ConfigDict, system: System) -> tuple:
    """Returns the phases that no file stands for."""
    ready = weight_files.artifacts(config)
    return tuple(
        p for p in system.phases if not p.artifact or p.artifact.name not in ready
    )


def tensorboard(config: ConfigDict, folder: Path) -> Path | None:
    """Returns where TensorBoard's files go, None unless asked for."""
    wanted = config.fit.tensorboard and processes.is_first()
    return folder / "tensorboard" if wanted else None


def train(run: Opened) -> None:
    """Runs the system's phases and saves the trained state."""
    config, checkpoints = run.config, run.folder / "checkpoints"
    done = (checkpoints / session.FINAL).exists()
    if processes.word_of_first(str(done)) == str(True):
        logging.info("%s is trained already; remove it to start anew", run.folder)
        return
    state = session.initial_state(config, run.system, run.first)
    start = time.perf_counter()
    try:
        with Checkpointer(checkpoints / "steps", keep=config.fit.keep) as checkpointer:
            state = fit(
                run.system,
                state,
                session.key_of(config, "fit"),
                processes.shared(run.dataset),
                fit_options(config),
                engine=run.engine,
                checkpointer=checkpointer,
                log=run.log,
            )
        if processes.is_first():
            save_tree(checkpoints / session.FINAL, state)
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
        artifacts=weight_files.artifacts(config),
        save_artifacts=weight_files.artifacts(config, "save_artifacts"),
        progress=processes.is_first(),
        device_memory_bytes=config.fit.device_memory_bytes or None,
        host_memory_bytes=config.fit.host_memory_bytes or None,
    )


def training_steps(config: ConfigDict, system: System, dataset: Dataset) -> int | None:
    """Returns the steps of all Train phases that are due, None where there is none."""
    due = system._replace(phases=phases_due(config, system))
    phases = count_steps(due, dataset, config.data.batch_size).phases
    steps = [phase.steps for phase in phases if isinstance(phase, Train)]
    return sum(steps) if steps else None


def evaluate(run: Opened, program: compilation.Compiled | None = None) -> dict:
    """Scores the test split; writes maps, scores, metrics and the report.

    `program` is that of `evaluate.compile_score`. Of several processes all score; the
    first reads all samples, whose masks it needs, writes, and returns the metrics, the
    others {}.
    """
    config, engine, folder = run.config, run.engine, run.folder
    dataset = run.dataset if processes.is_first() else processes.shared(run.dataset)
    state = session.trained_state(config, run.system, run.first, folder)
    samples = session.samples_of(run.data.manifest, "test")
    limits = memory.measure(
        engine.mesh.devices.flat,
        config.fit.device_memory_bytes or None,
        config.fit.host_memory_bytes or None,
    )
    score = evaluation.compile_score(
        run.system, engine, session.key_of(config, "score"), state, limits, program
    )
    size = config.eval.batch_size
    scored = evaluation.score_split(score, dataset, size)
    if processes.is_first():
        evaluation.write_scores(folder / "scores.csv", scored, samples)
        evaluation.write_maps(folder / "maps", scored, samples)
    processes.wait()
    rows = evaluation.chosen_rows(scored, samples, config.eval.pictures_per_defect)
    pictures = folder / "maps" / "samples"
    evaluation.write_pictures(pictures, score, dataset, samples, rows, size)
    if not processes.is_first():
        return {}
    metrics = {
        **evaluation.measure(scored, samples),
        "seconds_fit": seconds_fit(folder),
        "peak_memory_bytes": evaluation.peak_memory_bytes(),
        **run.facts,
    }
    if run.facts["steps"] is None:
        metrics["notes"]["steps"] = "nothing is trained by gradient steps"
    write_json(folder / "metrics.json", metrics)
    report = write_report(folder)
    show(metrics, report)
    return metrics


def seconds_fit(folder: Path) -> float | None:
    """Returns the wall time of all fits in the workdir but those that were killed."""
    log = read_log(folder / "log.jsonl")
    seconds = [line["seconds"] for line in log if line.get("event") == "fit"]
    return sum(seconds) if seconds else None


def show(metrics: dict, report: Path) -> None:
    """Prints the table of metrics and where the report lies."""
    names = [n for n in metrics if n.startswith(("i_", "p_", "aupro_"))]
    print(f"\n{metrics['system']} ({metrics['variant']}) on {metrics['category']}")
    for name in names:
        value = metrics[name]
        text = (
            "–  " + metrics["notes"].get(name, "") if value is None else f"{value:.4f}"
        )
        print(f"  {name:<16} {text}")
    print(f"\nreport: {report}")


def main(_) -> None:
    """Runs the command; a user's mistake ends it with one sentence and no trace."""
    values = flags.FLAGS
    if not values["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # checkpoints are told of at length
    try:
        cluster = processes.cluster(
            values.coordinator, values.processes, values.process, values.detect_cluster
        )
    except ValueError as mistake:
        sys.exit(f"error: {mistake}")
    command = partial(
        run, values.config, values.workdir, values.mode, values.allow_config_change
    )
    agreed = (0, EXIT_PREEMPTED)
    sys.exit(processes.call(cluster, partial(status_of, command), agreed))


def status_of(command: Callable[[], object]) -> int:
    """Runs a command and returns its exit status; says why where it is not 0."""
    try:
        command()
    except Preempted as stopped:
        logging.warning("%s; start the same command again to go on", stopped)
        return EXIT_PREEMPTED
    except DiskFullError as full:
        sys.stderr.write(f"error: {full}\n")
        return EXIT_DISK_FULL
    except ValueError as mistake:
        sys.stderr.write(f"error: {mistake}\n")
        return 1
    return 0


def define_flags() -> None:
    """Defines the flags of the command."""
    flag_errors.define_config("experiments/configs/quickstart.py")
    flags.DEFINE_string("workdir", "", "Default: runs/<system>-<category>.")
    flags.DEFINE_enum("mode", "fit_eval", MODES, "What to do.")
    flags.DEFINE_multi_string(
        "allow_config_change", [], "Fields that may differ from the workdir's."
    )
    several = "Of several processes"
    flags.DEFINE_string("coordinator", None, f"{several}: HOST:PORT of the first.")
    flags.DEFINE_integer("processes", None, f"{several}: how many there are.")
    flags.DEFINE_integer("process", None, f"{several}: which one this is, from 0 on.")
    flags.DEFINE_bool(
        "detect_cluster", False, f"{several}: jax finds them, as SLURM or a TPU says."
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=flag_errors.parse)
