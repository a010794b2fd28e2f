"""Processor seconds of a study's trials that share frozen features, and of each alone.

    python -m experiments.benchmarks.study_reuse --output=FILE.json \
        --config=patchcore:resnet18 [--config.data.root=FOLDER \
        --config.data.category=NAME] [--layers=layer1+layer2,layer2,…] \
        [--fractions=0.01,0.02,…]

The trials are all combinations of layers and fractions of a memory bank, fitted and
judged as a study's worker does it, one after the other in this process: first each by
itself, then all with one store. Both times the class is there before, prepared and
planted. Each program is compiled within the time, as none serves two trials.
"""

import itertools
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from ad3d_jax.experiment.config import changed
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

LAYERS = ("layer1+layer2", "layer2", "layer2+layer3", "layer3")
FRACTIONS = (0.005, 0.01, 0.02)
COMPARED = ("i_auroc", "p_auroc", "aupro_30")


def run(
    config: ConfigDict,
    layers: Sequence[str] = LAYERS,
    fractions: Sequence[float] = FRACTIONS,
    goal: Goal = Goal(),  # noqa: B008 (immutable)
) -> dict:
    """Returns the report: facts of machine and trials, seconds, and their ratio.

    Args:
        config: of a system with a memory bank on a network.
        layers: choices of `model.layers`, joined by "+".
        fractions: of `model.fraction`.
        goal: how the trials are judged.

    Raises:
        ValueError: a field is wrong.
    """
    trials = [
        {"model.layers": tuple(some.split("+")), "model.fraction": fraction}
        for some, fraction in itertools.product(layers, fractions)
    ]
    configs = [changed(config, fields) for fields in trials]
    grounds = Grounds()
    ground = grounds.open(configs[0], build_system(configs[0]), goal.planting)
    alone = timed(configs, goal, grounds)
    grounds.store = store = Store(lasting=True)
    shared = timed(configs, goal, grounds)
    rows = [
        {**fields, "alone": one, "shared": other}
        for fields, one, other in zip(trials, alone, shared, strict=True)
    ]
    differences = [
        abs(row["alone"][name] - row["shared"][name])
        for row in rows
        for name in COMPARED
        if row["alone"][name] is not None and row["shared"][name] is not None
    ]
    totals = {
        name: math.fsum(row[name]["processor_seconds"] for row in rows)
        for name in ("alone", "shared")
    }
    return {
        **speed.machine(),
        "commit": commit(),
        "system": config.system,
        "variant": config.variant,
        "category": category_of(config),
        "resolution": config.data.image_size,
        "fitted_on": ground.samples.size("train"),
        "judged_on": len(ground.rows),
        "trials": rows,
        "processor_seconds_alone": totals["alone"],
        "processor_seconds_shared": totals["shared"],
        "ratio": totals["shared"] / totals["alone"],
        "bytes_of_features": store.bytes,
        "largest_difference_of_metrics": max(differences, default=None),
    }


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


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    fractions = [float(fraction) for fraction in values.fractions]
    report = run(command.config_of(values), values.layers, fractions)
    write_json(Path(values.output), report)
    print(
        f"{len(report['trials'])} trials: {report['processor_seconds_alone']:.1f} s of "
        f"processors alone, {report['processor_seconds_shared']:.1f} s with shared "
        f"features, ratio {report['ratio']:.3f}; metrics differ by at most "
        f"{report['largest_difference_of_metrics']}"
    )


def define_flags() -> None:
    """Defines the flags of the command."""
    command.define_config("patchcore")
    flags.DEFINE_list("layers", list(LAYERS), "Choices of layers, joined by '+'.")
    flags.DEFINE_list("fractions", [str(x) for x in FRACTIONS], "Of the bank's rows.")
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)


if __name__ == "__main__":
    define_flags()
    command.run(main, remember=False)
