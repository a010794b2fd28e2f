"""Workers as processes: killed, in each other's way, and on two kinds of database."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import study_worker
from optuna.trial import TrialState

from ad3d_jax.experiment.study import records, report
from ad3d_jax.experiment.study.records import FIELDS, SLOT, WORKER
from ad3d_jax.experiment.study.slots import Rules, attempts_by_slot

SCRIPT = Path(study_worker.__file__)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "study.db")
    return request.getfixturevalue("postgresql")


@pytest.fixture
def start():
    """Returns what starts a worker; none outlives the test."""
    begun = []

    def begin(*arguments):
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
            process.communicate()


def kill_in_a_trial(study, folder, processes):
    """Kills a worker some steps into a trial; returns that trial, [] if it ended."""
    pids = {str(process.pid): process for process in processes}
    end = time.monotonic() + 600
    while time.monotonic() < end:
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            pid = trial.user_attrs.get(WORKER, ":").split(":")[1]
            name = records.digest(trial.user_attrs.get(FIELDS))
            if pid in pids and (folder / "trials" / name / "position.json").exists():
                os.kill(int(pid), signal.SIGKILL)
                processes.remove(pids[pid])
                pids[pid].communicate()
                running = study.trials[trial.number].state == TrialState.RUNNING
                return [trial.number] if running else []
        time.sleep(0.05)
    raise AssertionError("no worker was ever in a trial")


@pytest.mark.slow
def test_two_of_four_workers_are_killed_and_nothing_is_lost_or_done_twice(  # fault 67
    address, tmp_path, start
):
    folder = tmp_path / "study"
    job = study_worker.job(address, folder, Rules(40, "tpe", seed=3, retries=5))
    begun = time.monotonic()
    processes = [start(address, folder, 40, "tpe", 0.1) for _ in range(4)]
    lost = sum((kill_in_a_trial(job.study, folder, processes) for _ in range(2)), [])
    for process in processes:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-3000:]
    slots = attempts_by_slot(job.study.get_trials())
    assert sorted(slots) == list(range(40))
    for attempts in slots.values():
        states = [attempt.state for attempt in attempts]
        assert states[-1] == TrialState.COMPLETE
        assert set(states[:-1]) <= {TrialState.FAIL}
        assert len({records.digest(a.user_attrs[FIELDS]) for a in attempts}) == 1
    complete = [attempts[-1] for attempts in slots.values()]
    assert len({records.digest(t.user_attrs[FIELDS]) for t in complete}) == 40
    for number in lost:  # given up, tried again, from where it had been saved
        trial = job.study.trials[number]
        assert trial.state == TrialState.FAIL
        place = folder / "trials" / records.digest(trial.user_attrs[FIELDS])
        starts = [int(line) for line in (place / "began").read_text().split()]
        assert len(slots[trial.user_attrs[SLOT]]) >= 2
        assert len(starts) >= 2 and starts[0] == 0 and starts[-1] > 0
    best = report.best_trial(job.study)
    config = study_worker.CONFIG.copy_and_resolve_references()
    config.update(best.user_attrs[FIELDS])
    assert study_worker.train(config, tmp_path / "again") == best.value
    print(
        f"\n{len(complete)} trials, {len(job.study.trials)} attempts, lost {lost}, "
        f"{time.monotonic() - begun:.0f} s, best {best.value:.6f}"
    )


def wait_for_trials(study, count, processes):
    """Waits until so many trials are complete, or a worker has ended."""
    while sum(t.state == TrialState.COMPLETE for t in study.get_trials()) < count:
        for process in processes:
            assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.2)


@pytest.mark.slow
def test_a_server_that_is_restarted_ends_no_worker_and_no_trial(  # fault 69
    postgresql_server, tmp_path, start
):
    folder, address = tmp_path / "study", postgresql_server.address
    job = study_worker.job(address, folder, Rules(16, "tpe", seed=3, retries=0))
    begun = time.monotonic()
    processes = [start(address, folder, 16, "tpe", 0.3) for _ in range(2)]
    # Away for longer than the grace: no one could say that he lives.
    for complete, mode, seconds in ((2, "immediate", 25), (6, "fast", 0)):
        wait_for_trials(job.study, complete, processes)
        postgresql_server.stop(mode)
        time.sleep(seconds)
        postgresql_server.start()
        job.database.storage.engine.dispose()
    said = []
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]
        said.append(errors)
    assert all("trying" in each or "answers again" in each for each in said)
    slots = attempts_by_slot(job.study.get_trials())
    assert sorted(slots) == list(range(16))
    for attempts in slots.values():
        states = [attempt.state for attempt in attempts]
        assert states.count(TrialState.COMPLETE) == 1
        # What was being taken when the server went was released, and nothing was lost.
        left = [a for a in attempts if a.state != TrialState.COMPLETE]
        assert {a.state for a in left} <= {TrialState.FAIL}
        assert {a.user_attrs[records.CAUSE] for a in left} <= {records.STOPPED}
        fields = {
            records.digest(a.user_attrs[FIELDS]) for a in attempts if a not in left
        }
        place = folder / "trials" / fields.pop()
        assert (place / "began").read_text() == "0\n"  # once, from its beginning
    print(f"\n{len(job.study.trials)} attempts, {time.monotonic() - begun:.0f} s")


@pytest.mark.slow
def test_four_workers_share_a_grid_of_a_hundred_points(  # fault 68
    address, tmp_path, start
):
    folder = tmp_path / "study"
    rules = Rules(100, "grid", seed=3, retries=5)
    job = study_worker.job(address, folder, rules, study_worker.GRID)
    processes = [start(address, folder, 100, "grid", 0) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-3000:]
    found = job.study.get_trials()
    assert len(found) == 100
    assert all(trial.state == TrialState.COMPLETE for trial in found)
    assert len({records.digest(trial.user_attrs[FIELDS]) for trial in found}) == 100
    workers = {trial.user_attrs[WORKER] for trial in found}
    assert len(workers) >= 2
