"""A worker of a study as a process, for tests that kill it.

    python study_worker.py DATABASE FOLDER TRIALS SAMPLER SECONDS_A_STEP

Its trials are little trainings: gradient steps on a seeded least-squares problem whose
learning rate and decay the study chooses, each step saved in the trial's folder. Each
worker takes itself to be on a machine of its own.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.study import objective, storage, trials, worker
from ad3d_jax.experiment.study.objective import Goal
from ad3d_jax.experiment.study.records import Outcome
from ad3d_jax.experiment.study.slots import Rules
from ad3d_jax.experiment.study.space import Space, changed, read_space
from ad3d_jax.workdir import folder as workdir

STEPS = 8
CONFIG = load("btf:tiny")
with CONFIG.unlocked():
    CONFIG.update({"seed": 7, "rate": 0.1, "decay": 0.0})
SPACE = """
SPACE = {"rate": {"low": 0.01, "high": 1.0, "log": True},
         "decay": {"low": 0.0, "high": 0.5}}
"""
GRID = """
SPACE = {"rate": [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0],
         "decay": {"low": 0.0, "high": 0.45, "step": 0.05}}
"""


def train(config, folder: Path, seconds: float = 0.0) -> float:
    """Trains from where the folder stands; notes in it at which step it began."""
    random = np.random.default_rng(config.seed)
    inputs, target = random.normal(size=(20, 5)), random.normal(size=20)
    folder.mkdir(parents=True, exist_ok=True)
    saved, weights, first = folder / "position.json", np.zeros(5), 0
    if saved.exists():
        first, found = json.loads(saved.read_text())
        weights = np.array(found)
    with open(folder / "began", "a") as file:
        file.write(f"{first}\n")
    for step in range(first, STEPS):
        error = inputs @ weights - target
        weights = weights - config.rate * (
            inputs.T @ error / 20 + config.decay * weights
        )
        time.sleep(seconds)
        partial = folder / "position.tmp"
        partial.write_text(json.dumps([step + 1, weights.tolist()]))
        partial.replace(saved)
    return -float(np.mean((inputs @ weights - target) ** 2))


def runner(seconds: float = 0.0):
    """Returns what `worker.work` runs trials with; it holds their folders."""

    def one(task):
        with objective.opened(task):
            return Outcome(train(task.config, task.folder, seconds))

    return lambda tasks, goal, grounds: [one(task) for task in tasks]


def space(folder: Path, text: str = SPACE) -> Space:
    """Returns the space of a text, written into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"space_{time.monotonic_ns()}.py"
    partial.write_text(text)
    return read_space(partial)


def job(
    address: str, folder: Path, rules: Rules, text: str = SPACE, grace: int = 20, **more
) -> worker.Job:
    """Returns the study of an address."""
    database = storage.open_database(address, storage.Pulse(1, grace))
    facts = {"metric": "mean", "sampler": rules.sampler, "seed": rules.seed}
    study = trials.open_study(database, str(folder), facts)
    where = space(folder, text)
    return worker.Job(
        *(database, study, partial(changed, CONFIG), where, rules, Goal(), folder),
        **more,
    )


if __name__ == "__main__":
    address, folder, count, sampler, seconds = sys.argv[1:]
    # As on a machine of its own: what another one holds can be seen by the lock alone.
    workdir._machine = lambda: f"machine of {os.getpid()}"
    rules = Rules(int(count), sampler, seed=3, retries=5)
    text = GRID if sampler == "grid" else SPACE
    work = job(address, Path(folder), rules, text)
    print("ready", flush=True)
    worker.work(work, runner(float(seconds)))
