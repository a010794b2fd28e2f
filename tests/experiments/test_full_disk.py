"""A disk that fills up at any event is one sentence; with space, the run goes on."""

import subprocess
from pathlib import Path

import disturbed
import pytest
from disturbed import FILLER, Event
from test_kill import command, figures

from ad3d_jax.workdir import names
from ad3d_jax.workdir.checkpoint import has_tree

# From which event on there is no space, and what cannot be written then, by its place
# on the disk. In the order of a run: each goes on from the one before.
RUN = (
    (Event("open", "*/run/lock"), "run"),
    (Event("open", "*/run/.*.partial"), "run/config.json"),
    (Event("open", "*/test/good/rgb/000.png"), "cache/sample-set-"),
    (Event("os.mkdir", "*/downloads"), "cache/biscuit-"),
    (Event("open", "*/log.jsonl"), "run/log.jsonl"),
    (Event("os.mkdir", "*/checkpoints/steps/4*"), "run/"),
    (Event("ad3d_jax.fit.gather:emitted"), "run/"),
    (Event("os.mkdir", "*/checkpoints/final"), "run/"),
    (Event("ad3d_jax.evaluate:score_split"), "run/scores.csv"),
    (Event("os.mkdir", "*/maps.partial"), "run/maps/"),
    (Event("os.mkdir", "*/maps/samples"), "run/maps/samples/"),
    (Event("ad3d_jax.evaluate:measure"), "run/metrics.json"),
    (Event("os.mkdir", "*/report"), "run/report/"),
)
PREDICT = (
    (Event("os.mkdir", "*/heat_maps"), "output/heat_maps/"),
    (Event("os.mkdir", "*/overlays"), "output/overlays/"),
    (Event("ad3d_jax.experiment.inspect:write_images", count=6), "output/scores.csv"),
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """Gives a folder on a small disk of its own.

    It is seen through the process that has mounted it. Where that is not allowed, any
    folder is given: see `disturbed.fill`.
    """
    folder = tmp_path_factory.mktemp("disk")
    mount = 'mount -t tmpfs -o size=32m disk "$0" && echo mounted && exec sleep 9999'
    keeper = subprocess.Popen(
        ["sh", "-c", 'exec unshare -rm sh -c "$0" "$1"', mount, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    mounted = keeper.stdout.readline() == "mounted\n"
    yield Path(f"/proc/{keeper.pid}/root{folder}") if mounted else folder
    keeper.kill()
    keeper.communicate()


def fills_up(disk, words, event, place):
    """Runs a command on a disk that fills up, checks what it says, makes space."""
    ended = disturbed.run(words, event, disk)
    (disk / FILLER).unlink(missing_ok=True)
    assert ended.status == 3, (event, ended.said)
    assert f"error: {disk / place}" in ended.said, (event, ended.said)
    assert ": no space is left to write it; make space and run" in ended.said
    assert "Traceback" not in ended.said, (event, ended.said)


@pytest.mark.slow
def test_a_run_goes_on_when_space_is_made(disk, tmp_path):
    one = disturbed.run(command(tmp_path))
    assert one.status == 0, one.said
    words, workdir = command(disk), disk / "run"
    for event, place in RUN:
        fills_up(disk, words, event, place)
        if event.place.endswith("final"):  # what is saved half is no trained state
            assert not has_tree(workdir / names.FINAL)
            refused = disturbed.run((*words, "--mode=eval"))
            assert refused.status == 1 and "no fitted state" in refused.said
        assert not [p for p in workdir.rglob("*.partial") if p.is_file()]
    last = disturbed.run(words)
    assert last.status == 0, last.said
    assert figures(workdir) == figures(tmp_path / "run")

    samples = next(disk.glob("cache/sample-set-*/biscuit/train/good"))
    output = disk / "output"
    words = ["experiments.predict", f"--workdir={workdir}", f"--input={samples}"]
    words.append(f"--output={output}")
    for event, place in PREDICT:
        fills_up(disk, words, event, place)
        assert not (output / names.SCORES).exists()
    last = disturbed.run(words)
    assert last.status == 0, last.said
    assert len((output / names.SCORES).read_text().splitlines()) == 1 + 6
