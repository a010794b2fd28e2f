"""Several processes of two CPU devices each do what one process of four does."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ad3d_jax.devices.processes import EXIT_LOST
from ad3d_jax.experiment.status import PREEMPTED
from ad3d_jax.workdir.checkpoint import load_tree
from ad3d_jax.workdir.log import read_log

pytestmark = pytest.mark.slow

SMALL = {
    "data.category": "bun",
    "data.image_size": 64,
    "data.batch_size": 4,
    "data.sample_set.train": 6,  # the second batch of a pass is padded
    "data.sample_set.validation": 1,
    "data.sample_set.test_good": 2,
    "data.sample_set.test_per_defect": 1,
    "eval.batch_size": 4,
}
DBRN = SMALL | {
    "model.reconstruction_width": 4,
    "model.reconstruction_levels": 2,
    "model.skip_dropout": (1.0, 0.6),
    "model.discriminator_width": 4,
    "model.discriminator_levels": 2,
    "model.textures": 4,
    "model.texture_size": 32,
    "fit.checkpoint_every": 2,
    "fit.log_every": 1,
}
# What is stopped and killed: a system that compiles in seconds. With the published
# rates: those of the light setting are five times as large, and so are the steps that
# Adam makes of roundings.
SIMPLENET = SMALL | {
    "hyper.learning_rate_adaptor": 1e-4,
    "hyper.learning_rate_discriminator": 2e-4,
    "model.epochs": 160,
    "fit.checkpoint_every": 10,
    "fit.log_every": 1,
}
STEPS = 240  # 160 passes over 6 samples in batches of 4
PATIENCE = 900  # seconds for a run; machines that test may be slow


class Program:
    """Starts `experiments.main` on folders that all its runs share."""

    def __init__(self, folder: Path):
        self._cache = folder

    def start(self, workdir, config, overrides, mode, devices=2, cluster=(), **more):
        flags = {"data.cache": self._cache / "data", **overrides}
        output = workdir.with_name(f"{workdir.name}.{time.monotonic_ns()}.txt")
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "experiments.main", f"--mode={mode}"),
                    f"--config=experiments/configs/{config}.py:cpu",
                    f"--workdir={workdir}",
                    *(f"--config.{name}={value}" for name, value in flags.items()),
                    *cluster,
                ],
                env={
                    **os.environ,
                    "XLA_FLAGS": "--xla_backend_optimization_level=0 "
                    "--xla_llvm_disable_expensive_passes=true "
                    f"--xla_force_host_platform_device_count={devices}",
                    **more,
                },
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        process.output = output
        return process

    def start_two(self, *arguments, **named):
        coordinator = f"--coordinator=127.0.0.1:{free_port()}"
        return [
            self.start(
                *arguments,
                cluster=(coordinator, "--processes=2", f"--process={i}"),
                **named,
            )
            for i in (0, 1)
        ]

    def start_two_as_slurm_does(self, *arguments):
        job = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
        }
        return [
            self.start(
                *arguments,
                cluster=("--detect_cluster",),
                **job,
                SLURM_PROCID=str(i),
                SLURM_LOCALID=str(i),
            )
            for i in (0, 1)
        ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ended(processes, *codes):
    """Waits for all and holds their codes against the expected ones, 0 for None."""
    try:
        found = [process.wait(PATIENCE) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    said = [process.output.read_text() for process in processes]
    assert found == list(codes or [0] * len(processes)), "\n".join(
        text[-3000:] for text in said
    )
    return said


def final(workdir):
    return load_tree(workdir / "checkpoints" / "final")


def far(one, other) -> float:
    """Returns the largest difference, relative to each leaf's largest number."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    apart = jax.tree.map(
        lambda x, y: (
            np.max(np.abs(np.subtract(x, y, dtype=np.float64)), initial=0)
            / max(np.max(np.abs(y), initial=0), 1e-30)
        ),
        one,
        other,
    )
    return max(jax.tree.leaves(apart))


def losses(workdir) -> dict[int, float]:
    """Returns the loss of each step in the order of the log."""
    lines = read_log(workdir / "log.jsonl")
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def rows(workdir):
    with open(workdir / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("shared"))


# DBRN has everything that a step can have; it compiles long, hence one engine.
@pytest.mark.parametrize(
    ("config", "engine", "settings"),
    [
        ("dbrn", "pmap", DBRN | {"model.steps": 5}),
        ("simplenet", "shard_map", SIMPLENET | {"model.epochs": 4}),
    ],
)
def test_first_steps_are_those_of_one_process(
    program, config, engine, settings, tmp_path
):
    settings = settings | {"fit.engine": engine}
    one, workdir = tmp_path / "one", tmp_path / "run"
    ended([program.start(one, config, settings, "fit", devices=4)])
    ended(program.start_two(workdir, config, settings, "fit"))
    # Adam turns the rounding of a tiny gradient into a step of full size, so that one
    # parameter may drift; the losses of all steps tell whether they are the same.
    found, expected = losses(workdir), losses(one)
    assert list(found) == list(expected)
    assert list(found)[:5] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-5)
    files = {path.name for path in workdir.iterdir()}
    assert files == {"config.json", "lock", "log.jsonl", "checkpoints"}
    starts = [x for x in read_log(workdir / "log.jsonl") if x["kind"] == "start"]
    assert len(starts) == 1, "one process alone writes the log"


def test_a_bank_is_split_over_all_processes(program, tmp_path):
    # So little memory that the bank is shared by all four devices.
    settings = SMALL | {"fit.device_memory_bytes": 64 * 2**20}
    one, two = tmp_path / "one", tmp_path / "two"
    ended([program.start(one, "patchcore", settings, "fit_eval", devices=4)])
    said, _ = ended(program.start_two(two, "patchcore", settings, "fit_eval"))
    assert "split over 4 devices" in said
    plans = [x for x in read_log(two / "log.jsonl") if x["kind"] == "plan"]
    assert plans and all(x["parts"] == x["devices"] == 4 for x in plans)
    banks = [final(workdir)["memory"] for workdir in (one, two)]
    assert jax.tree.structure(banks[0]) == jax.tree.structure(banks[1])
    for x, y in zip(*map(jax.tree.leaves, banks), strict=True):
        if np.issubdtype(x.dtype, np.integer):
            np.testing.assert_array_equal(x, y)
    assert far(*banks) < 1e-6
    for x, y in zip(rows(one), rows(two), strict=True):
        assert float(x["score"]) == pytest.approx(float(y["score"]), rel=1e-6)
        assert [x[n] for n in ("stem", "sample", "row")] == [
            y[n] for n in ("stem", "sample", "row")
        ]
    metrics = [json.loads((w / "metrics.json").read_text()) for w in (one, two)]
    for name in ("i_auroc", "p_auroc", "aupro_30"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-6)
    assert (two / "report" / "index.html").is_file()
    maps = [{path.name for path in (w / "maps").rglob("*.npz")} for w in (one, two)]
    assert maps[0] == maps[1] and maps[0]


def checkpoints(workdir):
    folder = workdir / "checkpoints" / "steps"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def until(workdir, step, processes):
    """Waits for a checkpoint from `step` on, while both run."""
    while checkpoints(workdir) < step:
        codes = [process.poll() for process in processes]
        assert codes == [None, None], processes[0].output.read_text()[-3000:]
        time.sleep(0.05)


def test_signals_and_deaths_change_nothing(program, tmp_path):
    told = ("simplenet", SIMPLENET, "fit")
    undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "run"
    ended(program.start_two(undisturbed, *told))
    # A request to stop, of the second process alone.
    both = program.start_two(workdir, *told)
    until(workdir, 10, both)
    both[1].send_signal(signal.SIGTERM)
    said = ended(both, PREEMPTED, PREEMPTED)
    places = [text[text.index("after step") :][:14] for text in said]
    assert places[0] == places[1], "both stop at the same step"
    stopped = checkpoints(workdir)
    assert 0 < stopped < STEPS
    shutil.copytree(workdir, tmp_path / "on_one")
    # The death of either.
    for dead in (1, 0):
        both = program.start_two(workdir, *told)
        until(workdir, checkpoints(workdir) + 10, both)
        os.killpg(both[dead].pid, signal.SIGKILL)
        codes = [EXIT_LOST, EXIT_LOST]
        codes[dead] = -signal.SIGKILL
        said = ended(both, *codes)[1 - dead]
        sentence = said.strip().splitlines()[-1]
        assert sentence.startswith(f"error: process {1 - dead} of 2 has lost another")
        assert "Start the same command again" in sentence
        assert checkpoints(workdir) < STEPS
    ended(program.start_two_as_slurm_does(workdir, *told))
    for x, y in zip(
        *map(jax.tree.leaves, (final(workdir), final(undisturbed))), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    # On another number of processes.
    ended([program.start(tmp_path / "on_one", *told, devices=4)])
    found, expected = losses(tmp_path / "on_one"), losses(undisturbed)
    assert list(found) == list(range(1, STEPS + 1))
    for step in range(1, stopped + 2):  # beyond it, rounding grows
        assert found[step] == pytest.approx(expected[step], rel=1e-5)


def test_a_half_given_cluster_is_refused_before_work(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.main", "--processes=2"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert "missing: --coordinator, --process" in sentence
