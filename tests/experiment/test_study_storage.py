"""Databases that are locked, damaged, unreachable or of another kind; spaces."""

import sqlite3

import jax
import optuna
import pytest
import study_worker
from optuna.exceptions import StorageInternalError
from optuna.storages import GrpcStorageProxy

from ad3d_jax.devices import engines
from ad3d_jax.experiment.study import objective, space, storage, study, trials, worker
from ad3d_jax.experiment.study.storage import StudyError
from ad3d_jax.experiment.study.trials import Outcome, Rules
from experiments.configs import simplenet


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(storage, "BUSY_SECONDS", 0.05)


@pytest.mark.parametrize("content", [b"no database at all" * 99, None])
def test_a_damaged_database_is_named(tmp_path, hasty, content):  # fault 69
    file = tmp_path / "study.db"
    if content is None:  # truncated
        storage.open_database(str(file)).storage.engine.dispose()
        content = file.read_bytes()[: file.stat().st_size // 3]
    file.write_bytes(content)
    with pytest.raises(StudyError, match="study.db: .*(not a database|malformed)"):
        worker.work(study_worker.job(str(file), tmp_path, Rules(3)), None)


def test_a_lock_is_waited_for_and_then_named(tmp_path, hasty):  # fault 69
    file = tmp_path / "study.db"
    work = study_worker.job(str(file), tmp_path, Rules(2))
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StudyError, match="study.db: .*locked .*tried 6 times"):
        worker.work(work, lambda *_: pytest.fail("nothing may be run"))
    other.execute("ROLLBACK")
    worker.work(work, lambda tasks, *_: [Outcome(1.0) for _ in tasks])
    assert len(work.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) == 2


def test_a_lost_answer_counts_no_trial_twice(tmp_path, hasty, monkeypatch):  # fault 69
    work = study_worker.job(str(tmp_path / "s.db"), tmp_path, Rules(2))
    backend, calls = work.database.storage, []
    real = backend.set_trial_state_values

    def fragile(*arguments, **more):
        result = real(*arguments, **more)
        calls.append(arguments)
        if len(calls) in (3, 6):  # of taking the second trial, and of its value
            raise StorageInternalError("the connection broke after the commit")
        return result

    monkeypatch.setattr(backend, "set_trial_state_values", fragile)
    assert worker.work(work, lambda tasks, *_: [Outcome(1.0) for _ in tasks]) == 2
    found = work.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    slots = [trial.user_attrs[trials.SLOT] for trial in found]
    assert sorted(slots) == [0, 1]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("grpc://localhost:13000", "gRPC proxy passes no heartbeats"),
        ("mysql://localhost/x", "expected sqlite or postgresql"),
        ("://nowhere", "no address"),
    ],
)
def test_other_databases_are_refused(address, words):
    with pytest.raises(StudyError, match=words):
        storage.open_database(address, tries=1)


def test_the_proxy_still_passes_no_heartbeats():
    assert not hasattr(GrpcStorageProxy, "record_heartbeat")


def space_of(tmp_path, text):
    return study_worker.space(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('SPACE = {"hyper.noize": [1.0]}', "hyper.noize: no such field.*hyper.noise"),
        (
            'SPACE = {"model.epochs": ["ten"]}',
            "model.epochs: expected int.*'ten'",
        ),
        ('SPACE = {"data.category": ["bun"]}', "the same for all trials"),
        ('SPACE = {"hyper.noise": {"low": 1.0}}', "hyper.noise: expected a list"),
        ('SPACE = {"hyper.noise": {"low": 2.0, "high": 1.0}}', "hyper.noise: "),
        ("SPACE = {}", "expected fields that may change"),
        ("x = 1", "neither SPACE nor space"),
        ("def space(trial): return 3", "must return"),
        ("1 / 0", "ZeroDivisionError"),
        ('SPACE = {"model.hidden": [0]}', "model.hidden: expected at least 1"),
    ],
)
def test_a_space_is_checked_before_any_work(tmp_path, text, words):  # fault 72
    config = simplenet.get_config("cpu")
    with pytest.raises(ValueError, match=words):
        space.check(space_of(tmp_path, text), config, "tpe")


def test_a_missing_space_file_is_named(tmp_path):
    with pytest.raises(StudyError, match="there is no file .*nowhere.py"):
        space.read_space(tmp_path / "nowhere.py")


def test_a_space_sets_the_fields_of_a_copy(tmp_path):
    text = """
SPACE = {
    "hyper.noise": {"low": 0.01, "high": 0.02},
    "model.epochs": {"low": 5, "high": 6},
    "model.modalities": [["depth"]],
    "model.backbone": ["resnet50"],
}
"""
    config = simplenet.get_config("cpu")
    read = space_of(tmp_path, text)
    values = space.suggested(read, optuna.create_study().ask())
    new = space.changed(config, values)
    assert 0.01 <= new.hyper.noise <= 0.02 and new.model.epochs in (5, 6)
    assert new.model.modalities == ("depth",)
    assert config.model.modalities == ("rgb",)


def test_the_example_space_fits_its_configuration():
    read = space.read_space("experiments/spaces/simplenet.py")
    space.check(read, simplenet.get_config("cpu"), "tpe")


def test_a_grid_needs_choices_or_steps_and_has_each_point_once(tmp_path):
    points = space.grid_points(space_of(tmp_path, study_worker.GRID), 0)
    assert len({trials.digest(point) for point in points}) == 100
    assert points != space.grid_points(space_of(tmp_path, study_worker.GRID), 1)
    for text in (study_worker.SPACE, "def space(trial): return {}"):
        with pytest.raises(StudyError, match="grid"):
            space.grid_points(space_of(tmp_path, text), 0)


def test_devices_are_named_and_can_be_chosen(monkeypatch):  # fault 74
    devices = jax.devices()[:2]
    told = objective.describe_devices(engines.make_engine("pmap", devices))
    assert told == "2 x cpu (cpu:0, cpu:1)"
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    study.choose_devices([])
    assert not set_to
    study.choose_devices(["1", "3"])
    assert set_to == {"jax_cuda_visible_devices": "1,3"}
