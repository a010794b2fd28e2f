"""A run that is killed at any event ends with the figures of an undisturbed one."""

import json
import signal

import disturbed
import pytest
from disturbed import BANK, Event

from ad3d_jax.workdir import maps, names, trees
from ad3d_jax.workdir.checkpoint import load_tree
from ad3d_jax.workdir.scores import read_scores

# In the order of a run: each life reaches the next of them.
KILLS = (
    # Preparation: of the sample set, of the class.
    Event("open", "*/test/good/xyz/001.tiff"),
    Event("os.rename", "*/sample-set-*/biscuit"),
    Event("os.mkdir", "*/downloads"),
    Event("os.rename", "*.tfrecord-*", 2),
    Event("open", "*/manifest.json"),
    Event("os.rename", "*/cache/biscuit-*"),
    # Training, in steps of two; then between the phases, before and after the save.
    Event("os.rename", "*/origin.json"),
    Event("os.rename", "*/steps/2"),
    Event("os.mkdir", "*/steps/4*"),
    Event("ad3d_jax.fit.fit:train"),
    Event("ad3d_jax.fit.gather:announce"),
    # Gathering: the rows are there, the memory is not.
    Event("ad3d_jax.fit.gather:emitted"),
    # The trained state.
    Event("os.mkdir", "*/checkpoints/final"),
    Event("os.mkdir", "*/checkpoints/final/*"),
    Event("os.rename", "*/checkpoints/final/0"),
    # Evaluation and report.
    Event("os.rename", "*/scores.csv"),
    Event("os.rename", "*/maps*/*.npz", 3),
    Event("os.rename", "*/maps"),
    Event("os.rename", "*/metrics.json"),
    Event("os.rename", "*/report/index.html"),
)
# How the names of times and memory begin, and of what the place of the cache changes.
OTHERS = ("seconds", "images_per_second", "peak_memory", "config_hash")


def command(folder):
    place = f"--workdir={folder / 'run'}"
    cache = f"--config.data.cache={folder / 'cache'}"
    return "experiments.main", f"--config={BANK}", place, cache


def figures(workdir):
    """Returns what a run gives, but for times: metrics, scores, maps and state."""
    metrics = json.loads((workdir / names.METRICS).read_text())
    rows = read_scores(workdir / names.SCORES)
    state = trees.by_path(load_tree(workdir / names.FINAL))
    return {
        "metrics": {n: x for n, x in metrics.items() if not n.startswith(OTHERS)},
        "scores": [row._replace(seconds=0) for row in rows],
        "maps": {p.name: p.read_bytes() for p in maps.files(workdir / names.MAPS)},
        "state": {path: (x.shape, x.tobytes()) for path, x in state.items()},
    }


@pytest.mark.slow
def test_twenty_kills_change_no_figure(tmp_path):
    one = disturbed.run(command(tmp_path / "undisturbed"))
    assert one.status == 0, one.said
    words = command(tmp_path / "killed")
    for event in KILLS:
        ended = disturbed.run(words, event)
        assert ended.status == -signal.SIGKILL, (event, ended.said)
    last = disturbed.run(words)
    assert last.status == 0, last.said
    expected = figures(tmp_path / "undisturbed" / "run")
    assert len(expected["scores"]) == len(expected["maps"]) > 3
    assert figures(tmp_path / "killed" / "run") == expected
