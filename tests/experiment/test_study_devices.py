"""Workers of a study compute on the devices that they were told to."""

import json
import os

import jax
import pytest

from ad3d_jax.devices import engines
from ad3d_jax.experiment import workers
from ad3d_jax.experiment.config import load, plain
from ad3d_jax.experiment.study import objective, study
from ad3d_jax.experiment.study.settings import Settings
from ad3d_jax.experiment.study.storage import StudyError

SMALL = {
    "data.image_size": 32,
    "data.category": "bun",
    "data.batch_size": 4,
    "data.sample_set.train": 4,
    "data.sample_set.validation": 2,
    "data.sample_set.test_good": 1,
    "data.sample_set.test_per_defect": 1,
    "model.cells": 8,
}


@pytest.fixture
def config():
    """Undoes what a test sets."""
    yield
    jax.config.update("jax_cuda_visible_devices", "all")
    jax.config.update("jax_default_device", None)


def test_devices_are_named_and_can_be_chosen(config):
    first, second = jax.devices()[:2]
    told = objective.describe_devices(engines.make_engine("pmap", [first, second]))
    assert told == "2 x cpu (cpu:0, cpu:1)"
    assert study.choose_devices([]) is None
    assert jax.numpy.ones(3).devices() == {first}
    assert study.choose_devices(["1", "0"]) == [second, first]
    assert jax.numpy.ones(3).devices() == {second}
    assert jax.config.read("jax_cuda_visible_devices") == "1,0"
    with pytest.raises(StudyError, match="devices: expected some of 0, .*found 77"):
        study.choose_devices(["77"])


def work_and_tell(path, **arguments):
    """Works as a worker does; notes where all arrays lie while it scores."""
    real, found = objective.evaluation.score_split, []

    def score_split(*given, **named):
        scores = real(*given, **named)
        devices = {d for array in jax.live_arrays() for d in array.devices()}
        found.extend(f"{device.platform}:{device.id}" for device in devices)
        return scores

    objective.evaluation.score_split = score_split
    study.work_alone(**arguments)
    with open(path, "w") as file:
        json.dump(sorted(set(found)), file)


def test_a_worker_fits_on_the_device_that_it_was_told(tmp_path):  # fault 74
    fields = SMALL | {"data.cache": str(tmp_path / "cache")}
    config = load("btf:raw+float32")
    config.update_from_flattened_dict(fields)
    given = {
        "config": plain(config),
        "space": {"seed": [1]},
        "workdir": str(tmp_path),
        "settings": Settings(trials=1, pruner="none", planted_weights={})._asdict(),
        "devices": ["1"],
    }
    flags = os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=2")
    process = workers.start(
        "test_study_devices:work_and_tell",
        {"path": str(tmp_path / "told"), **given},
        environment={**os.environ, "XLA_FLAGS": flags},
    )
    assert process.wait(600) == 0
    assert json.loads((tmp_path / "told").read_text()) == ["cpu:1"]
    (log,) = tmp_path.glob("trials/*/log.jsonl")
    assert "1 x cpu (cpu:1)" in log.read_text()
