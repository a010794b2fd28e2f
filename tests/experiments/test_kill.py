"""A run that is killed again and again ends with the figures of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

# A system that compiles in seconds: what is tested is the run, not the network.
STEPS = 600  # 300 passes over 8 samples in batches of 4
EVERY = 4  # steps from checkpoint to checkpoint
OVERRIDES = {
    "data.category": "bun",
    "data.image_size": 64,
    "data.batch_size": 4,
    "data.sample_set.train": 8,
    "data.sample_set.validation": 1,
    "data.sample_set.test_good": 4,
    "data.sample_set.test_per_defect": 1,
    "model.epochs": 300,
    "fit.checkpoint_every": EVERY,
    "eval.batch_size": 4,
}
METRICS = ("i_auroc", "p_auroc", "aupro_30", "aupro_01", "i_ap", "p_ap", "p_f1max")


def start(workdir, cache):
    flags = [f"--config.{name}={value}" for name, value in OVERRIDES.items()]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.main",
            "--config=experiments/configs/simplenet.py:cpu",
            f"--workdir={workdir}",
            f"--config.data.cache={cache}",
            *flags,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def checkpoints(workdir):
    folder = workdir / "checkpoints" / "steps"
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def finish(workdir, cache):
    process = start(workdir, cache)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    metrics = json.loads((workdir / "metrics.json").read_text())
    return {name: metrics[name] for name in METRICS}


@pytest.mark.slow
def test_five_kills_change_no_figure(tmp_path):
    undisturbed = finish(tmp_path / "undisturbed", tmp_path / "cache")
    assert undisturbed["p_auroc"] is not None
    moments = random.Random(3)
    workdir, kills = tmp_path / "killed", 0
    while kills < 5:
        before = checkpoints(workdir)
        process = start(workdir, tmp_path / "cache")
        # Each life may see a few checkpoints more than the last, then a random moment.
        wanted = before + EVERY * moments.randint(2, 6)
        while process.poll() is None and checkpoints(workdir) < wanted:
            time.sleep(0.02)
        time.sleep(moments.uniform(0.0, 0.5))
        assert process.poll() is None, process.communicate()[1][-2000:]
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        assert checkpoints(workdir) < STEPS
    assert finish(workdir, tmp_path / "cache") == undisturbed
