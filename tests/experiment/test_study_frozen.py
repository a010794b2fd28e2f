"""Frozen features that trials share: how often they are computed, and what changes."""

import json
from pathlib import Path

import numpy as np
import pytest

from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study import outcomes
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Task
from ad3d_jax.fit import cache
from ad3d_jax.fit.cache_store import Store
from data_pipelines.planted import Settings
from experiments.benchmarks import study_reuse
from experiments.configs import patchcore

ROOT = Path(__file__).parents[2]
SMALL = {
    "data.category": "bun",
    "data.image_size": 32,
    "data.sample_set.train": 6,
    "data.sample_set.validation": 2,
    "data.sample_set.test_good": 1,
    "data.sample_set.test_per_defect": 1,
    "fit.engine": "jit",
}
SETTINGS = (
    {"model.layers": ("layer1", "layer2"), "model.fraction": 0.5},
    {"model.layers": ("layer1", "layer2"), "model.fraction": 0.2},
    {"model.layers": ("layer1",), "model.dimensions": 16},
)
GOAL = Goal(stages=(), planting=Settings(each=1, kinds=("cut", "dent"), hold_out=0.25))
TIMES = ("seconds_score", "images_per_second", "seconds_fit", "notes")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def passed(monkeypatch):
    """Returns (source, samples) of each pass of a network, as they come."""
    seen = []
    real = cache.ordered_pass

    def ordered_pass(run, name, source, *arguments):
        count = 0
        for batch, rows in real(run, name, source, *arguments):
            count += len(batch.weight)
            yield batch, rows
        seen.append((source, count))

    monkeypatch.setattr(cache, "ordered_pass", ordered_pass)
    return seen


def metrics_of(data, folder, fields, grounds):
    config = patchcore.get_config("tiny")
    config.update_from_flattened_dict({**SMALL, **fields, "data.cache": data})
    (outcome,) = outcomes.run_trials(
        [Task(config, folder, lambda *_: False)], GOAL, grounds
    )
    assert outcome.cause is None, outcome.reason
    return json.loads((folder / "metrics.json").read_text())


def without_times(metrics):
    return {name: x for name, x in metrics.items() if name not in TIMES}


def test_trials_compute_frozen_features_once(data, tmp_path, passed):
    grounds = Grounds(Store(lasting=True))
    shared = [
        metrics_of(data, tmp_path / f"shared{n}", fields, grounds)
        for n, fields in enumerate(SETTINGS)
    ]
    ground = grounds.open(*_opened(data))
    train, planted = ground.samples.size("train"), len(ground.rows)
    counts = {
        source: sum(count for name, count in passed if name == source)
        for source in ("train", "planted")
    }
    assert counts == {"train": train, "planted": planted}
    assert shared[0]["images_per_second"] is None
    assert "computed before" in shared[0]["notes"]["images_per_second"]
    passed.clear()
    for n in (0, 2):
        alone = metrics_of(data, tmp_path / f"alone{n}", SETTINGS[n], Grounds())
        assert without_times(alone) == without_times(shared[n])
        assert alone["images_per_second"] > 0
    assert not passed


def test_a_bank_of_shared_features_is_not_judged_before_its_end(data, tmp_path):
    goal, (config, *_) = GOAL._replace(stages=(50,)), _opened(data)
    reported = {}
    for name, store in {"alone": None, "shared": Store(lasting=True)}.items():
        told = reported.setdefault(name, [])
        task = Task(config, tmp_path / name, lambda *x, told=told: told.append(x))
        outcomes.run_trials([task], goal, Grounds(store))
    assert [percent for percent, *_ in reported["alone"]] == [50]
    assert reported["shared"] == []


def _opened(data):
    config = patchcore.get_config("tiny")
    config.update_from_flattened_dict({**SMALL, "data.cache": data})
    return config, build_system(config), GOAL.planting


def test_a_worker_without_memory_finds_what_another_wrote(data, tmp_path, passed):
    folder = tmp_path / "features"
    for n in range(2):
        grounds = Grounds(Store(folder, lasting=True))
        grounds.store.bytes = 10**12  # as if memory were full of others
        metrics_of(data, tmp_path / str(n), SETTINGS[0], grounds)
    assert {source for source, _ in passed} == {"train", "planted"}
    files = [*folder.glob("*/*.npy")]  # of two layers, of colour and of depth
    assert len(files) == 4 * sum(count for _, count in passed)


def test_the_benchmark_compares_the_same_trials(data):
    shared = {**SMALL, "data.cache": data, "model.layers": ("layer1",)}
    settings = [{**shared, "model.fraction": share} for share in (0.5, 0.25)]
    report = study_reuse.run("patchcore:tiny", settings, GOAL, ROOT)
    trials = report["trials"]
    assert [row["setting"]["model.fraction"] for row in trials] == [0.5, 0.25]
    assert report["largest_difference_of_metrics"] == 0
    assert report["bytes_of_features"] > 0
    sums = [
        np.sum([row[name]["processor_seconds"] for row in trials])
        for name in ("shared", "alone")
    ]
    assert report["ratio"] == pytest.approx(sums[0] / sums[1])
    beside = report["beside"]
    assert len(beside["processor_seconds"]) == 2
    assert beside["ratio"] == pytest.approx(sums[0] / sum(beside["processor_seconds"]))
