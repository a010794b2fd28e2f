"""Times parts of the library against other implementations of the same.

    python -m experiments.benchmarks.baselines --output=FILE.json \
        [--small] [--rounds=5] \
        [--operations=knn,coreset,fpfh,points,memory,synthesis,draem,easynet,cfm]

`knn`, `coreset`, `fpfh`: the engine of the memory banks. `points`: centres, groups and
maps of point transformers. `memory`: the peak while a large bank is searched, against
`knn.plan_bytes`. `synthesis`: DRAEM's anomalies. `draem`, `easynet`: score and training
step of their networks. `cfm`: a training step of both mappings.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from ad3d_jax.experiment.facts import commit
from ad3d_jax.workdir.json_files import write_json
from experiments import command
from experiments.benchmarks.baselines import (
    cfm,
    coreset,
    draem,
    easynet,
    fpfh,
    knn,
    memory,
    points,
    synthesis,
)
from experiments.benchmarks.speed import machine

ROUNDS = 5
OPERATIONS = {
    "knn": knn.compare,
    "coreset": coreset.compare,
    "fpfh": fpfh.compare,
    "points": points.compare,
    "memory": memory.measure,
    "synthesis": synthesis.compare,
    "draem": draem.compare,
    "easynet": easynet.compare,
    "cfm": cfm.compare,
}


def run(operations: Sequence[str], small: bool = False, rounds: int = ROUNDS) -> dict:
    """Returns the report: facts of the machine, and each operation's timings.

    Args:
        operations: names in OPERATIONS.
        small: tiny sizes, to try the command itself.
        rounds: how often each implementation is timed.

    Raises:
        ValueError: an operation is unknown, or there is no round.
    """
    for name in operations:
        if name not in OPERATIONS:
            known = ", ".join(OPERATIONS)
            raise ValueError(f"operations: expected some of {known}, found {name!r}")
    if rounds < 1:
        raise ValueError(f"expected at least 1 round, found {rounds}")
    return {
        **machine(),
        "cores": os.cpu_count(),
        "commit": commit(),
        "rounds": rounds,
        "small": small,
        "operations": {name: OPERATIONS[name](small, rounds) for name in operations},
    }


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    report = run(values.operations, values.small, values.rounds)
    write_json(Path(values.output), report)


def define_flags() -> None:
    """Defines the flags of the command."""
    names = ", ".join(OPERATIONS)
    flags.DEFINE_list("operations", list(OPERATIONS), f"Some of {names}.")
    flags.DEFINE_bool("small", False, "Tiny sizes, to try the command itself.")
    flags.DEFINE_integer("rounds", ROUNDS, "Timed calls of each implementation.", 1)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)


if __name__ == "__main__":
    define_flags()
    command.run(main)
