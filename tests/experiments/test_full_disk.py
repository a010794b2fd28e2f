"""A disk that fills up at any event is one sentence; with space, the run goes on."""

import shutil

import disturbed
import pytest
from disturbed import Event
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
PREDICT = (  # rows of scores.csv are small: images find no space before them
    (Event("os.mkdir", "*/heat_maps"), "output/heat_maps/"),
    (Event("os.mkdir", "*/overlays"), "output/overlays/"),
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    with disturbed.small_disk(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Returns the folder of a whole run and of its data."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = disturbed.run(command(folder))
    assert ended.status == 0, ended.said
    return folder


def fills_up(disk, words, event, place):
    """Runs a command on a disk that fills up, checks what it says, makes space."""
    ended = disturbed.run(words, event, disk)
    disturbed.make_space(disk)
    assert ended.status == 3, (event, ended.said)
    assert f"error: {disk.folder / place}" in ended.said, (event, ended.said)
    assert ": no space is left to write it; make space and run" in ended.said
    assert "Traceback" not in ended.said, (event, ended.said)


@pytest.mark.slow
def test_a_run_goes_on_when_space_is_made(disk, undisturbed, tmp_path):
    words, workdir = command(disk.folder), disk.seen / "run"
    for event, place in RUN:
        fills_up(disk, words, event, place)
        if event.place.endswith("final"):  # what is saved half is no trained state
            assert not has_tree(workdir / names.FINAL)
            refused = disturbed.run((*words, "--mode=eval"), disk=disk)
            assert refused.status == 1 and "no fitted state" in refused.said
        assert not [p for p in workdir.rglob("*.partial") if p.is_file()]
    last = disturbed.run(words, disk=disk)
    assert last.status == 0, last.said
    copy = shutil.copytree(workdir, tmp_path / "copy")
    assert figures(copy) == figures(undisturbed / "run")


@pytest.mark.slow
def test_a_prediction_gives_all_when_space_is_made(disk, undisturbed):
    samples = next(undisturbed.glob("cache/sample-set-*/biscuit/train/good"))
    output = disk.folder / "output"
    words = ["experiments.predict", f"--workdir={undisturbed / 'run'}"]
    words += [f"--input={samples}", f"--output={output}"]
    for event, place in PREDICT:
        fills_up(disk, words, event, place)
        scores = disk.seen / "output" / names.SCORES
        assert len(scores.read_text().splitlines()) < 1 + 6
    last = disturbed.run(words, disk=disk)
    assert last.status == 0, last.said
    scores = (disk.seen / "output" / names.SCORES).read_text()
    assert len(scores.splitlines()) == 1 + 6
