"""Databases that are locked, damaged, unreachable or of another kind; spaces."""

import sqlite3

import optuna
import pytest
import sqlalchemy
import study_worker
from optuna.exceptions import StorageInternalError
from optuna.storages import GrpcStorageProxy

from ad3d_jax.experiment.status import PREEMPTED, status_of
from ad3d_jax.experiment.study import (
    objective,
    outcomes,
    records,
    space,
    storage,
    worker,
)
from ad3d_jax.experiment.study.records import Outcome
from ad3d_jax.experiment.study.slots import Rules
from ad3d_jax.experiment.study.storage import StudyError, UnreachableError
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
    words = f"study.db: .*locked .*tried {storage.TRIES} times"
    with pytest.raises(UnreachableError, match=words):
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
    slots = [trial.user_attrs[records.SLOT] for trial in found]
    assert sorted(slots) == [0, 1]


def broken(work, away):
    """Breaks each statement sent to the database while `away()`; returns their count.

    What a server that goes away raises comes through the real engine and storage.
    """
    sent = []

    @sqlalchemy.event.listens_for(work.database.storage.engine, "before_cursor_execute")
    def break_off(connection, cursor, statement, *_):
        sent.append(statement)
        if away(len(sent)):
            reason = Exception("server closed the connection unexpectedly")
            raise sqlalchemy.exc.OperationalError(statement, {}, reason) from reason

    return sent


def work_through(work):
    """Runs a study whose trials report; returns the slots that were run, in order."""
    ran = []

    def run(tasks, *_):
        for task in tasks:
            ran.append(task.folder.name)
            task.report(25, 1.0)
        return [Outcome(1.0) for _ in tasks]

    worker.work(work, run)
    return ran


def test_a_database_that_is_away_for_a_while_changes_nothing(  # fault 69
    tmp_path, hasty, caplog
):
    whole = study_worker.job(str(tmp_path / "whole.db"), tmp_path, Rules(2))
    sent = broken(whole, lambda _: False)
    ran = work_through(whole)
    statements = len(sent)
    assert statements > 30
    for first in range(1, statements, 11):
        file = str(tmp_path / f"{first}.db")
        work = study_worker.job(file, tmp_path, Rules(2, retries=0))
        # Twelve in a row: longer than a database is waited for that was never open.
        broken(work, lambda n, first=first: first <= n < first + 12)
        caplog.clear()
        assert work_through(work) == ran
        assert f"{first}.db answers again" in caplog.text
        states = [trial.state.name for trial in work.study.trials]
        assert states.count("COMPLETE") == 2
        assert set(states) <= {"COMPLETE", "FAIL"}
        left = [t for t in work.study.trials if t.state.name == "FAIL"]
        assert {t.user_attrs[records.CAUSE] for t in left} <= {records.STOPPED}


def test_a_database_that_stays_away_ends_the_worker_and_refuses_no_trial(
    tmp_path, hasty, monkeypatch, caplog
):
    work = study_worker.job(str(tmp_path / "s.db"), tmp_path, Rules(1, retries=1))
    away = []
    broken(work, lambda _: away)

    def value_of(task, *_):
        away.append(True)
        return task.report(25, 1.0)

    monkeypatch.setattr(objective, "value_of", value_of)
    assert status_of(lambda: worker.work(work, outcomes.run_alike)) == PREEMPTED
    assert f"unexpectedly (tried {storage.TRIES} times)" in caplog.text
    assert "start the same command again" in caplog.text
    away.clear()
    (trial,) = work.study.trials
    assert trial.state.name == "RUNNING" and records.REASON not in trial.user_attrs
    with work.database.storage.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"
        )
    assert len(work_through(work)) == 1
    assert [t.state.name for t in work.study.trials] == ["FAIL", "COMPLETE"]


def test_a_slot_that_two_workers_took_is_not_tried_again(tmp_path):
    # The lock was lost in the middle: both have slot 0, the later one gives it up.
    work = study_worker.job(str(tmp_path / "s.db"), tmp_path, Rules(1))
    made = optuna.trial.create_trial
    states = optuna.trial.TrialState
    slot = {records.SLOT: 0}
    fail = slot | {records.CAUSE: records.STOPPED}
    work.study.add_trial(made(state=states.COMPLETE, value=1.0, user_attrs=slot))
    work.study.add_trial(made(state=states.FAIL, user_attrs=fail))
    worker.work(work, lambda *_: pytest.fail("nothing may be run"))


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
    assert len({records.digest(point) for point in points}) == 100
    assert points != space.grid_points(space_of(tmp_path, study_worker.GRID), 1)
    for text in (study_worker.SPACE, "def space(trial): return {}"):
        with pytest.raises(StudyError, match="grid"):
            space.grid_points(space_of(tmp_path, text), 0)
