"""What a trial is worth: judged on planted defects, at stages, resumable."""

import json
import os
import signal
import subprocess
import sys

import pytest

from ad3d_jax.experiment.data import open_data
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study import outcomes, records, strata
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.objective import Goal, Task
from ad3d_jax.workdir.disk import DiskFullError
from data_pipelines.errors import DatasetError
from data_pipelines.planted import Settings
from data_pipelines.reader import Reader
from experiments.configs import btf, patchcore, simplenet

SMALL = {
    "data.image_size": 32,
    "data.category": "bun",
    "data.batch_size": 4,
    "data.sample_set.train": 8,
    "data.sample_set.validation": 1,
    "data.sample_set.test_good": 1,
    "data.sample_set.test_per_defect": 1,
    "fit.engine": "jit",
}
BANK = {"model.cells": 8}
KINDS = ("colour", "dent", "missing")
PLANTING = Settings(each=1, kinds=KINDS, hold_out=0.25)  # 2 good samples, 3 altered
GOAL = Goal(planting=PLANTING)
TRAINED = {"data.image_size": 64, "model.hidden": 16, "model.epochs": 8}


def config_of(cache, config, fields):
    config.update_from_flattened_dict({**SMALL, **fields, "data.cache": str(cache)})
    return config


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def read_splits(monkeypatch):
    """Returns the splits that are read from now on."""
    seen = set()
    real = Reader._batches

    def batches(self, split, *arguments):
        seen.add((split, self.size(split)))
        return real(self, split, *arguments)

    monkeypatch.setattr(Reader, "_batches", batches)
    return seen


def run_alone(task, goal, grounds):
    (outcome,) = outcomes.run_trials([task], goal, grounds)
    return outcome


def bank(cache):
    return config_of(cache, btf.get_config("raw+float32"), BANK)


def test_a_memory_bank_is_judged_before_on_a_part_and_never_on_the_test_set(
    cache, tmp_path, read_splits
):
    reports = []

    def report(stage, value, kinds):
        reports.append((stage, value))
        return False

    task, grounds = Task(bank(cache), tmp_path / "a", report), Grounds()
    weights = {"dent": 3.0, "missing": 0.0}
    goal = GOAL._replace(stages=(34, 50), weights=weights)
    outcome = run_alone(task, goal, grounds)
    assert outcome.cause is None, outcome.reason
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    kinds = metrics["kinds"]
    colour, dent = (
        (kinds[kind]["i_auroc"] + kinds[kind]["aupro_30"]) / 2
        for kind in ("colour", "dent")
    )
    assert outcome.value == pytest.approx((colour + 3 * dent) / 4)
    assert metrics["judged_on"] == "planted" and list(outcome.kinds) == list(KINDS)
    assert outcome.kinds["dent"]["p_ap"] == kinds["dent"]["p_ap"]
    assert [stage for stage, _ in reports] == [34]
    assert read_splits == {("train", 6), ("train", 2), ("planted", 5)}
    assert "1 x cpu (cpu:0)" in (tmp_path / "a" / "log.jsonl").read_text()
    # Again: nothing is fitted, and another metric is read from the file.
    read_splits.clear()
    again = run_alone(task, Goal("p_auroc"), grounds)
    expected = sum(kinds[kind]["p_auroc"] for kind in KINDS) / 3
    assert again.value == pytest.approx(expected) and not read_splits
    # Pruned at the first stage, and again, without being judged, by what was seen.
    for _ in range(2):
        cut = Task(bank(cache), tmp_path / "b", lambda *_: True)
        outcome = run_alone(cut, GOAL, grounds)
        assert outcome.pruned
    assert not (tmp_path / "b" / "metrics.json").exists()


def test_an_undefined_value_is_refused(cache, tmp_path):
    task = Task(bank(cache), tmp_path, lambda *_: False)
    whole = dict.fromkeys(strata.METRICS, 0.5)
    kinds = {"cut": whole | {"aupro_30": None}, "dent": whole}
    (tmp_path / "metrics.json").write_text(json.dumps({"kinds": kinds}))
    outcome = run_alone(task, Goal(), Grounds())
    assert outcome.cause == records.REFUSED
    assert outcome.reason == "mean is not a number for cut"
    outcome = run_alone(task, Goal(weights={"cut": 0.0}), Grounds())
    assert outcome.value == 0.5


def test_a_wrong_setting_is_refused_and_a_breakdown_is_not(
    cache, tmp_path, monkeypatch
):
    wrong = bank(cache)
    wrong.model.cells = 0
    task = Task(wrong, tmp_path / "a", lambda *_: False)
    outcome = run_alone(task, GOAL, Grounds())
    assert outcome.cause == records.REFUSED and "model.cells" in outcome.reason
    task = Task(bank(cache), tmp_path / "c", lambda *_: False)
    outcome = run_alone(task, GOAL._replace(weights={"dents": 1.0}), Grounds())
    assert outcome.cause == records.REFUSED
    assert "planted_weights: expected kinds of ['colour', " in outcome.reason

    def broken(*_):
        raise RuntimeError("device lost")

    monkeypatch.setattr(Grounds, "open", broken)
    task = Task(bank(cache), tmp_path / "b", lambda *_: False)
    outcome = run_alone(task, Goal(), Grounds())
    assert outcome.cause == records.BROKEN and "device lost" in outcome.reason


def test_no_space_left_is_no_fault_of_the_trial(cache, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Grounds, "open", full)
    task = Task(bank(cache), tmp_path, lambda *_: False)
    with pytest.raises(DiskFullError, match=f"^{tmp_path}: no space is left"):
        run_alone(task, Goal(), Grounds())


def test_all_trials_of_a_study_are_judged_on_the_same_samples(cache):
    """Whether they see pictures alone, shapes alone or both."""
    rows, masks = [], []
    for fields in ({"model.modalities": ("rgb",)}, {"model.modalities": ("depth",)}):
        config = config_of(cache, patchcore.get_config("tiny"), fields)
        ground = Grounds().open(config, build_system(config), PLANTING)
        (batch,) = ground.planted.ordered("planted", 5, 0)
        rows.append(ground.rows)
        masks.append(batch.mask)
    assert rows[0] == rows[1] and [r.defect for r in rows[0]].count("good") == 2
    assert (masks[0] == masks[1]).all()


def test_what_calibrates_takes_no_part_in_a_study(cache):
    fields = {"calibration.source": "held_out", "calibration.share": 0.25}
    config = config_of(cache, patchcore.get_config("tiny"), fields)
    system = build_system(config)
    data = open_data(config, system)
    held = {data.prepared.rows("train")[n]["id"] for n in data.calibration.held}
    ground = Grounds().open(config, system, PLANTING)
    (fitted,) = ground.samples.ordered("train", 4, 0)
    hosts = {row.id for row in ground.rows if not row.label}
    assert (len(held), len(hosts), len(set(fitted.id))) == (2, 2, 4)
    assert not held & hosts and not (held | hosts) & set(fitted.id.tolist())
    config.calibration.source = "folds"
    with pytest.raises(DatasetError, match="folds: all training samples calibrate"):
        Grounds().open(config, system, PLANTING)


@pytest.mark.slow
def test_a_training_is_judged_at_its_stages_and_goes_on_where_it_was_stopped(
    cache, tmp_path, read_splits
):
    config, grounds = config_of(cache, simplenet.get_config("cpu"), TRAINED), Grounds()
    reports = []

    def report(stage, value, kinds):
        reports.append((stage, value))
        return False

    whole = run_alone(Task(config, tmp_path / "a", report), GOAL, grounds)
    assert [stage for stage, _ in reports] == [25, 50]
    assert {split for split, _ in read_splits} == {"train", "planted"}
    undisturbed, reports = reports, []

    def stop(stage, value, kinds):
        report(stage, value, kinds)
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        task = Task(config, tmp_path / "b", stop)
        outcome = run_alone(task, GOAL, grounds)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert outcome.cause == records.STOPPED and len(reports) == 1
    reports = []
    again = run_alone(Task(config, tmp_path / "b", report), GOAL, grounds)
    assert again.value == whole.value
    assert reports == undisturbed  # what was seen before is told again

    def prune(stage, value, kinds):
        return stage == 50

    cut = run_alone(Task(config, tmp_path / "c", prune), GOAL, grounds)
    assert cut.pruned and not (tmp_path / "c" / "metrics.json").exists()


@pytest.mark.slow
def test_trials_in_one_program_are_worth_what_they_are_alone(cache, tmp_path):
    """Two of one structure, one of them twice, and one of another."""

    def task(folder, **fields):
        fields = {**TRAINED, "fit.log_every": 4, **fields}
        config = config_of(cache, simplenet.get_config("cpu"), fields)
        return Task(config, tmp_path / folder, lambda *_: False)

    grounds = Grounds()
    change, other = {"hyper.noise": 0.1, "seed": 5}, {"model.epochs": 1}
    tasks = [
        task("t/a"),
        task("t/b", **change),
        task("t/a"),
        task("t/c", **other),
        task("t/d", **{"hyper.wrong": 1.0}),
    ]
    found = outcomes.run_trials(tasks, GOAL, grounds)
    assert all(each.cause is None for each in found[:4]), found
    assert found[4].cause == records.REFUSED and "hyper.wrong" in found[4].reason
    assert found[2] == found[0] and not any((tmp_path / "t" / "together").iterdir())
    assert (tasks[0].folder / "log.jsonl").read_text().count('"start"') == 1
    alone = [
        run_alone(task("s/a"), GOAL._replace(stages=()), grounds),
        run_alone(task("s/b", **change), GOAL._replace(stages=()), grounds),
    ]
    for one, many in zip(alone, found, strict=False):
        assert many.value == pytest.approx(one.value, abs=0.02)
    losses = {
        place: last_loss((tmp_path / place / "log.jsonl").read_text())
        for place in ("s/a", "s/b", "t/a", "t/b")
    }
    assert losses["t/a"] == pytest.approx(losses["s/a"], rel=1e-4)
    assert losses["t/b"] == pytest.approx(losses["s/b"], rel=1e-4)
    assert losses["s/a"] != pytest.approx(losses["s/b"], rel=1e-2)


def last_loss(text):
    lines = [json.loads(line) for line in text.splitlines()]
    return [line["loss"] for line in lines if "loss" in line][-1]


@pytest.mark.slow
def test_the_command_from_space_to_page(cache, tmp_path):
    space = tmp_path / "space.py"
    space.write_text('SPACE = {"model.fraction": [0.2, 0.5]}')
    fields = {**SMALL, **BANK, "data.cache": cache}

    def command(*more):
        return subprocess.run(
            [
                *(sys.executable, "-m", "experiments.sweep"),
                "--config=btf:raw+float32",
                *(f"--config.{name}={value}" for name, value in fields.items()),
                f"--workdir={tmp_path / 'study'}",
                *("--planted_kinds=colour,dent", "--planted_each=1"),
                "--planted_weights=dent=2",
                *more,
            ],
            capture_output=True,
            text=True,
            timeout=600,
        )

    wrong = command(f"--space={space}", "--trials=2", "--smapler=grid")
    assert wrong.returncode == 2 and "sampler" in wrong.stderr
    space.write_text('SPACE = {"model.fractoin": [0.2, 0.5]}')
    wrong = command(f"--space={space}", "--trials=2")
    assert wrong.returncode == 1 and "'model.fraction'" in wrong.stderr
    assert "Traceback" not in wrong.stderr and not list(tmp_path.glob("study/trials"))
    space.write_text('SPACE = {"model.fraction": [0.2, 0.5]}')
    for _ in range(2):  # the second time there is nothing left to do
        done = command(f"--space={space}", "--sampler=grid", "--workers=2")
        assert done.returncode == 0, done.stderr[-2000:]
        assert "2 trials (2 complete)" in done.stdout
        assert "--config.model.fraction=0." in done.stdout
    assert (tmp_path / "study" / "report" / "index.html").is_file()
