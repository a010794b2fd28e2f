"""Processor seconds of a study's trials that share what is frozen, and of each alone.

    python -m experiments.benchmarks.study_reuse --output=FILE.json \
        [--system=patchcore] [--weights=RESNET18] [--data=FOLDER] \
        [--category=cable_gland] [--set=FIELD=VALUE ...] [--beside=CHECKOUT]

The trials are the grid of `benchmarks.selection` for a system, fitted and judged as a
study's worker does it, one after the other in one process: first each by itself, then
all with one store. `--beside` is a checkout of another commit, whose trials are run the
same way by a process of its own. Whenever the clock runs, the class is there, prepared
and planted. Each program is compiled within the time.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from ad3d_jax.experiment.config import changed, load, read_texts
from ad3d_jax.experiment.data import category_of
from ad3d_jax.experiment.facts import commit
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Task, value_of
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.workdir import names
from ad3d_jax.workdir.json_files import read_json, write_json
from experiments import command
from experiments.benchmarks import speed
from experiments.benchmarks.selection import grids

COMPARED = ("i_auroc", "p_auroc", "aupro_30")
# What another checkout runs; it may not have this module, or a newer one.
BESIDE = """
import ast, json, sys, tempfile, time
from pathlib import Path
from ad3d_jax.experiment.config import changed, load
from ad3d_jax.experiment.facts import commit
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Task, value_of

name, settings = ast.literal_eval(sys.argv[1])
configs = [changed(load(name), fields) for fields in settings]
grounds, seconds = Grounds(), []
grounds.open(configs[0], build_system(configs[0]), Goal().planting)
with tempfile.TemporaryDirectory() as folder:
    for number, config in enumerate(configs):
        task = Task(config, Path(folder) / str(number), lambda *_: False)
        start = time.process_time()
        value_of(task, Goal(), grounds)
        seconds.append(time.process_time() - start)
print(json.dumps({"commit": commit(), "processor_seconds": seconds}))
"""


def run(
    name: str,
    settings: Sequence[Mapping[str, Any]],
    goal: Goal = Goal(),  # noqa: B008 (immutable)
    beside: Path | None = None,
) -> dict:
    """Returns the report: facts of machine and trials, seconds, and their ratios.

    Args:
        name: of a configuration.
        settings: the fields of each trial, which change it; all of one class.
        goal: how the trials are judged.
        beside: a checkout of another commit; its trials are judged by its usual goal.

    Raises:
        ValueError: a field is wrong.
        RuntimeError: the other checkout fails.
    """
    configs = [changed(load(name), fields) for fields in settings]
    grounds, first = Grounds(), configs[0]
    ground = grounds.open(first, build_system(first), goal.planting)
    alone = timed(configs, goal, grounds)
    grounds.store = store = Store(lasting=True)
    shared = timed(configs, goal, grounds)
    totals = {"alone": total(alone), "shared": total(shared)}
    report = {
        **speed.machine(),
        "commit": commit(),
        "configuration": name,
        "category": category_of(first),
        "resolution": first.data.image_size,
        "fitted_on": ground.samples.size("train"),
        "judged_on": len(ground.rows),
        "trials": [
            {"setting": varied(fields, settings), "alone": one, "shared": other}
            for fields, one, other in zip(settings, alone, shared, strict=True)
        ],
        "processor_seconds": totals,
        "ratio": totals["shared"] / totals["alone"],
        "bytes_of_features": store.bytes,
        "largest_difference_of_metrics": largest_difference(alone, shared),
    }
    if beside is not None:
        other = of_checkout(beside, name, settings)
        report["beside"] = {
            **other,
            "ratio": totals["shared"] / math.fsum(other["processor_seconds"]),
        }
    return report


def timed(configs: Sequence[ConfigDict], goal: Goal, grounds: Grounds) -> list[dict]:
    """Returns seconds and metrics of each trial, in order."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, config in enumerate(configs):
            task = Task(config, Path(folder) / str(number), lambda *_: False)
            wall, processor = time.perf_counter(), time.process_time()
            value_of(task, goal, grounds)
            seconds = {
                "seconds": time.perf_counter() - wall,
                "processor_seconds": time.process_time() - processor,
            }
            metrics = read_json(task.folder / names.METRICS)
            found.append(seconds | {name: metrics[name] for name in COMPARED})
    return found


def varied(
    fields: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns those fields of a setting that are not the same in all."""
    return {
        name: value
        for name, value in fields.items()
        if any(other[name] != value for other in settings)
    }


def total(trials: Sequence[Mapping[str, Any]]) -> float:
    """Returns the processor seconds of trials."""
    return math.fsum(trial["processor_seconds"] for trial in trials)


def largest_difference(
    some: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> float | None:
    """Returns by how much metrics of the same trials differ; None if none is defined.

    A metric that is defined in one of two alone differs infinitely.
    """
    pairs = [
        (one[name], other[name])
        for one, other in zip(some, others, strict=True)
        for name in COMPARED
    ]
    return max(
        (
            abs(x - y) if None not in (x, y) else math.inf
            for x, y in pairs
            if (x, y) != (None, None)
        ),
        default=None,
    )


def of_checkout(
    folder: Path, name: str, settings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns `commit` and `processor_seconds` of the trials of another checkout.

    Raises:
        RuntimeError: it fails; the message has the end of what it said.
    """
    trials = repr((name, [dict(fields) for fields in settings]))
    done = subprocess.run(
        [sys.executable, "-c", BESIDE, trials],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{folder}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    grid = grids.GRIDS[values.system]
    fields = {"data.root": values.data, "data.category": values.category}
    fields |= read_texts(load(grid.config), values.set)
    if values.weights:
        fields[f"weights.{grids.BACKBONE}"] = values.weights
    settings = [{**grid.usual, **fields, **point} for point in grids.points(grid)]
    beside = Path(values.beside) if values.beside else None
    report = run(grid.config, settings, beside=beside)
    write_json(Path(values.output), report)
    seconds = report["processor_seconds"]
    print(
        f"{len(report['trials'])} trials: {seconds['alone']:.1f} s of processors alone,"
        f" {seconds['shared']:.1f} s shared, ratio {report['ratio']:.3f}; metrics "
        f"differ by at most {report['largest_difference_of_metrics']}"
    )
    if other := report.get("beside"):
        print(
            f"{other['commit']}: {math.fsum(other['processor_seconds']):.1f} s, ratio "
            f"of the shared {other['ratio']:.3f}"
        )


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_enum("system", "patchcore", list(grids.GRIDS), "Whose grid is run.")
    flags.DEFINE_string("weights", "", "Of a ResNet-18, file or name; '' = random.")
    flags.DEFINE_string("data", "", "Folder of classes; '' = the sample set.")
    flags.DEFINE_string("category", "bun", "Name of the class.")
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE in all configurations.")
    flags.DEFINE_string("beside", "", "Checkout of another commit, run as well.")
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)


if __name__ == "__main__":
    define_flags()
    command.run(main, remember=False)
