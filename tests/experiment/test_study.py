"""Studies in one process: slots, retries, sequences, disks, the page."""

import html.parser
import json
import shutil

import numpy as np
import pytest
import study_worker
from optuna.trial import TrialState

from ad3d_jax.experiment.study import (
    objective,
    records,
    report,
    storage,
    trials,
    worker,
)
from ad3d_jax.experiment.study.records import FIELDS, SLOT, Outcome
from ad3d_jax.experiment.study.slots import Rules, attempts_by_slot
from ad3d_jax.experiment.study.storage import StudyError
from ad3d_jax.workdir.disk import DiskFullError


def job(folder, count=6, sampler="tpe", seed=3, retries=2, text=None, **more):
    rules = Rules(count, sampler, seed, retries)
    text = study_worker.SPACE if text is None else text
    return study_worker.job(str(folder / "s.db"), folder, rules, text, **more)


def fields_of(study, state=None):
    found = study.get_trials(states=None if state is None else (state,))
    return [trial.user_attrs[FIELDS] for trial in found]


def gives(function):
    """Returns a runner whose outcome is a function of the fields of a trial."""

    def run(tasks, goal, grounds):
        return [function(task.config) for task in tasks]

    return run


RATE = gives(lambda config: Outcome(config.rate))


def test_one_seed_gives_one_sequence_and_a_new_worker_goes_on_with_it(  # fault 70
    tmp_path,
):
    whole = job(tmp_path / "a", 14)
    assert worker.work(whole, RATE) == 14
    for count in (4, 12, 14):  # three workers, one after the other
        other = job(tmp_path / "b", count)
        worker.work(other, RATE)
    assert fields_of(whole.study) == fields_of(other.study)
    third = job(tmp_path / "c", 14, seed=4)
    worker.work(third, RATE)
    assert fields_of(whole.study) != fields_of(third.study)
    assert len({records.digest(f) for f in fields_of(whole.study)}) == 14


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_trials_taken_together_are_different_ones(tmp_path, sampler):
    text = study_worker.GRID if sampler == "grid" else study_worker.SPACE
    work = job(tmp_path, 7, sampler, text=text, together=3)
    sizes = []

    def run(tasks, goal, grounds):
        sizes.append(len(tasks))
        return [Outcome(task.config.rate) for task in tasks]

    worker.work(work, run)
    assert sizes == [3, 3, 1]
    assert len({records.digest(f) for f in fields_of(work.study)}) == 7


def test_no_number_is_a_failure_and_never_the_best(tmp_path):  # fault 71
    work = job(tmp_path, 5)
    seen = []

    def value(config):
        seen.append(config.rate)
        if len(seen) == 2:
            return Outcome(cause=records.REFUSED, reason="mean is not a number")
        return Outcome(-len(seen))

    worker.work(work, gives(value))
    assert len(seen) == 5  # it is not tried again
    failed = work.study.get_trials(states=(TrialState.FAIL,))
    assert [t.user_attrs["reason"] for t in failed] == ["mean is not a number"]
    assert failed[0].value is None
    assert report.best_trial(work.study).value == -1


@pytest.mark.parametrize(("faults", "ends"), [(2, TrialState.COMPLETE), (3, "fail")])
def test_what_breaks_is_tried_again_with_the_same_parameters(tmp_path, faults, ends):
    work = job(tmp_path, 3, retries=2)
    seen = []

    def value(config):
        seen.append(config.rate)
        if len(seen) <= 1 or len(seen) > 1 + faults:
            return Outcome(config.rate)
        return Outcome(cause=records.BROKEN, reason="cosmic ray")

    worker.work(work, gives(value))
    assert len(set(seen[1 : 1 + min(faults + 1, 3)])) == 1
    slots = attempts_by_slot(work.study.get_trials())
    assert sorted(slots) == [0, 1, 2]
    last = slots[1][-1].state
    assert last == (TrialState.FAIL if ends == "fail" else ends)
    assert len(slots[1]) == 3


def test_what_is_stopped_goes_on_and_that_does_not_count(tmp_path):
    seen = []

    def value(config):
        seen.append(config.rate)
        return Outcome(cause=records.STOPPED) if len(seen) <= 4 else Outcome(1.0)

    for _ in range(4):
        with pytest.raises(worker.Stopped):
            worker.work(job(tmp_path, 2, retries=0), gives(value))
    work = job(tmp_path, 2, retries=0)
    worker.work(work, gives(value))
    assert len(set(seen[:5])) == 1 and len(seen) == 6
    assert len(work.study.get_trials(states=(TrialState.COMPLETE,))) == 2


def test_a_trial_whose_worker_died_at_any_place_is_taken_up(tmp_path):  # fault 67
    work = job(tmp_path, 3)
    claim = trials.claim(work.database, work.study, work.space, work.rules)
    lost = claim.taken[0]
    silence(work, lost)
    # Between being taken and saying so, and before being taken.
    work.study.add_trial(waiting(slot=1))
    with storage.quiet():
        work.study.ask()
    work.study.add_trial(waiting(slot=2))
    worker.work(job(tmp_path, 3), RATE)
    slots = attempts_by_slot(work.study.get_trials())
    assert {s: [t.state.name for t in a] for s, a in slots.items()} == {
        0: ["FAIL", "COMPLETE"],
        1: ["FAIL", "COMPLETE"],
        2: ["COMPLETE"],
    }
    assert slots[0][1].user_attrs[FIELDS] == lost.fields
    # The first worker was only slow: what it brings is dropped.
    assert not trials.finish(work.database, work.study, lost, Outcome(9.0))
    assert report.best_trial(work.study).value < 9


def held_elsewhere(work, taken):
    """Lets a taken trial be one of another machine, which holds its folder."""
    backend, number = work.database.storage, taken.trial._trial_id
    backend.set_trial_user_attr(number, records.WORKER, "elsewhere:1")
    place = work.folder / "trials" / taken.name
    place.mkdir(parents=True)
    holder = {"pid": 1, "host": "elsewhere", "machine": "0-0", "started": "2026-01-01"}
    (place / "lock").write_text(json.dumps(holder))


def silence(work, taken):
    """Lets a trial have said an hour ago that it lives."""
    with work.database.storage.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour') "
            f"WHERE trial_id = {taken.trial._trial_id}"
        )


def states_by_slot(work):
    slots = attempts_by_slot(work.study.get_trials())
    return {slot: [each.state.name for each in slots[slot]] for slot in slots}


def test_what_a_dead_worker_of_another_machine_held_is_taken_over(tmp_path, caplog):
    work = job(tmp_path, 2)
    claim = trials.claim(work.database, work.study, work.space, work.rules)
    held_elsewhere(work, claim.taken[0])
    silence(work, claim.taken[0])
    worker.work(job(tmp_path, 2), study_worker.runner())
    assert states_by_slot(work) == {0: ["FAIL", "COMPLETE"], 1: ["COMPLETE"]}
    assert "taking over" in caplog.text and "process 1 on elsewhere" in caplog.text


def test_what_a_living_worker_of_another_machine_holds_is_waited_for(
    tmp_path, monkeypatch
):
    text = 'SPACE = {"rate": [0.1]}'  # both slots have one folder
    work, looks = job(tmp_path, 2, "random", text=text), []
    claim = trials.claim(work.database, work.study, work.space, work.rules)
    held_elsewhere(work, claim.taken[0])

    def sleep(seconds):
        if seconds == objective.SECONDS_BETWEEN_LOOKS:
            looks.append(seconds)
        if len(looks) == 3:
            silence(work, claim.taken[0])

    monkeypatch.setattr(objective.time, "sleep", sleep)
    worker.work(job(tmp_path, 2, "random", text=text), study_worker.runner())
    assert len(looks) == 3
    assert states_by_slot(work) == {0: ["FAIL", "COMPLETE"], 1: ["COMPLETE"]}


def waiting(slot):
    from optuna.trial import create_trial

    return create_trial(state=TrialState.WAITING, user_attrs={SLOT: slot})


def test_parameters_that_come_again_are_not_run_again(tmp_path):
    text = 'SPACE = {"rate": [0.1, 0.2]}'
    work, seen = job(tmp_path, 6, "random", text=text), []

    def value(config):
        seen.append(config.rate)
        return Outcome(config.rate)

    worker.work(work, gives(value))
    assert sorted(seen) == [0.1, 0.2]
    complete = work.study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == 6
    assert all(t.value == t.user_attrs[FIELDS]["rate"] for t in complete)


def test_a_full_disk_stops_the_worker_and_costs_no_trial(tmp_path):  # fault 73
    def full(tasks, goal, grounds):
        raise DiskFullError("no space is left")

    for _ in range(4):
        with pytest.raises(DiskFullError):
            worker.work(job(tmp_path, 2), full)
    work = job(tmp_path, 2)
    assert worker.work(work, RATE) == 2
    slots = attempts_by_slot(work.study.get_trials())
    assert all(a[-1].state == TrialState.COMPLETE for a in slots.values())


def test_only_the_best_keep_their_state(tmp_path):  # fault 73
    work = job(tmp_path, 5, keep_best=2)

    def run(tasks, goal, grounds):
        for task in tasks:
            for part in ("steps", "final"):
                (task.folder / "checkpoints" / part).mkdir(parents=True)
        return [Outcome(task.config.rate) for task in tasks]

    worker.work(work, run)
    order = sorted(work.study.trials, key=lambda t: -t.value)
    for place, trial in enumerate(order):
        folder = tmp_path / "trials" / records.digest(trial.user_attrs[FIELDS])
        kept = folder / "checkpoints"
        assert (kept / "final").exists() == (place < 2)
        assert not (kept / "steps").exists()


def test_a_nearly_full_disk_is_told_of(tmp_path, monkeypatch, caplog):  # fault 73
    def usage(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: (1000, 1000 - free, free))
        return worker.warn_of_full_disk(tmp_path)

    assert not usage(101)
    assert usage(100) and usage(1)


def test_a_study_that_cannot_succeed_is_given_up(tmp_path):
    work = job(tmp_path, 20)
    refuse = gives(lambda _: Outcome(cause=records.REFUSED, reason="model.x: wrong"))
    with pytest.raises(StudyError, match="first 3 trials failed.*model.x: wrong"):
        worker.work(work, refuse)
    assert len(work.study.trials) == 3


def test_a_study_that_was_begun_otherwise_is_refused(tmp_path):
    job(tmp_path, seed=3)
    with pytest.raises(StudyError, match="seed: 3 -> 4"):
        job(tmp_path, seed=4)


def test_pruning_ends_a_trial_by_what_it_reported(tmp_path):
    from ad3d_jax.experiment.study.space import make_pruner

    work = job(tmp_path, 12)
    work.study.pruner = make_pruner("median")
    told = []

    def run(tasks, goal, grounds):
        (task,) = tasks
        value = -1.0 if len(told) == 8 else float(len(told))
        pruned = task.report(25, value)
        told.append(pruned)
        return [Outcome(pruned=True) if pruned else Outcome(value)]

    worker.work(work, run)
    assert told.index(True) == 8
    trial = work.study.trials[8]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {25: -1.0}


def test_the_page_shows_the_study_and_holds_all_of_it(tmp_path):
    work = job(tmp_path / "<study>", 14)
    random = np.random.default_rng(0)

    def value(config):
        if config.decay > 0.45:
            return Outcome(cause=records.REFUSED, reason="<b>too much</b>")
        if config.decay > 0.4:
            return Outcome(pruned=True)
        return Outcome(-abs(np.log(config.rate)) + random.normal(0, 0.01))

    worker.work(work, gives(value))
    flags = ["--config=simplenet:cpu"]
    path = report.write_report(work.study, tmp_path / "<study>", flags)
    page = path.read_text()
    html.parser.HTMLParser().feed(page)
    assert page.count("data:image/png;base64,") == 4
    for word in ("History", "Importances", "Parallel", "Slices", "14 trials"):
        assert word in page
    assert "http" not in page and "<study>" not in page and "<b>too" not in page
    best = report.best_trial(work.study)
    line = report.summary(work.study, flags)[-1]
    assert f"--config.rate={best.params['rate']}" in line and flags[0] in line


def test_the_page_of_a_study_without_results_says_so(tmp_path):
    page = report.compose(job(tmp_path).study, [])
    assert "Too few trials" in page


def test_a_database_is_named_without_its_password(monkeypatch):  # fault 69
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.0)
    address = "postgresql://ann:secret@127.0.0.1:1/studies"
    with pytest.raises(StudyError, match="127.0.0.1:1/studies.*tried 2 times") as error:
        storage.open_database(address, tries=2)
    assert "secret" not in str(error.value)
