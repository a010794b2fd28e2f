"""A search from beginning to end: its workdir, its page, stopped and joined."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ad3d_jax as ad
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.study.storage import StudyError
from ad3d_jax.experiment.tuning import candidates, final
from ad3d_jax.experiment.tuning.candidates import Asked, open_field
from ad3d_jax.workdir import names
from ad3d_jax.workdir.calibration import read_calibration

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = ("btf:tiny+raw", "btf:tiny+hog")
KINDS = ("colour", "missing")
SPACE = 'SPACE = {"model.fraction": [0.25, 0.5, 1.0]}\n'
# Without networks, so that little is compiled.
FIELDS = {
    **{"data.category": "bun", "data.image_size": 32, "data.sample_set.train": 12},
    **{"model.backbone": "", "calibration.source": "held_out", "fit.engine": "jit"},
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Returns the arguments of a small search, less its workdir."""
    folder = tmp_path_factory.mktemp("tune")
    space = folder / "space.py"
    space.write_text(SPACE)
    fields = {n: x for n, x in FIELDS.items() if n != "data.category"}
    return {
        "systems": SYSTEMS,
        "categories": FIELDS["data.category"],
        "set": {**fields, "data.cache": str(folder / "cache")},
        "mask_size": 32,
        "trials": 3,
        "space": str(space),
        "rungs": (0.5,),
        "planted_each": 2,
        "planted_kinds": KINDS,
    }


@pytest.fixture(scope="module")
def found(asked, tmp_path_factory):
    return ad.tune(**asked, workdir=tmp_path_factory.mktemp("work") / "w")


def told(result):
    """Returns what two equal searches have in common."""
    order = [(x.trial, x.rank, x.value) for x in result.only.ranking]
    return sorted(order), result.only.ranking[0].rank, result.estimate


def test_the_workdir_is_like_any_other(found, asked):
    folder, chosen = found.only.workdir, found.only.chosen
    metrics = json.loads((folder / names.METRICS).read_text())
    assert metrics == found.only.metrics and metrics["i_auroc"] is not None
    assert metrics["estimate"] == found.estimate
    assert set(found.estimate["kinds"]) == set(KINDS)
    config = json.loads((folder / names.CONFIG).read_text())
    before = load(chosen.configuration)
    assert config["model"]["features"] == before.model.features
    fraction = chosen.fields.get("model.fraction", before.model.fraction)
    assert config["model"]["fraction"] == fraction
    detector = found.detector
    assert detector.calibration is not None
    # Both configurations as they are, and a third trial, which may be pruned.
    whole = {each.trial for each in found.only.ranking}
    assert len(whole) >= 2 and whole <= {x.name for x in (folder / "trials").iterdir()}
    assert len(list((folder / "trials").iterdir())) == 3
    assert found.only.ranking == sorted(found.only.ranking, key=lambda x: x.rank)
    assert {x.configuration for x in found.only.best_of_systems(9)} == set(SYSTEMS)
    assert all(x.seconds > 0 and x.bytes > 0 for x in found.only.ranking)
    assert any("an estimate" in line for line in found.summary)


def test_what_selects_does_not_calibrate(found):
    folder, trial = found.only.workdir, found.only.chosen.trial
    calibration = read_calibration(folder / names.CALIBRATION)
    split = json.loads((folder / "trials" / trial / names.METRICS).read_text())
    assert calibration.source == "held_out" and split["judged_on"] == "planted"
    hosts = found.estimate["hosts"]
    # Of 12 training samples a fifth calibrates and as many are hosts; the whole fit has
    # the hosts again, the trial had neither.
    assert len(calibration.names) == 2 and hosts == 2


def test_the_page_says_why(found):
    page = found.only.page.read_text()
    for section in ("estimate", "ranking", "kinds", "planted", "costs", "repeat"):
        assert f'id="{section}"' in page
    for word in (*SYSTEMS, *KINDS, "not on real ones", "Nothing was left out"):
        assert word in page
    assert "python -m experiments.tune --systems=" in page
    assert "python -m experiments.main --config=btf:tiny+" in page
    for kind in KINDS:
        blocks = re.findall(rf"<h3>{kind} <span.*?</div></div>", page, re.DOTALL)
        assert len(blocks) == 2 and all("RGB, before" in block for block in blocks)
    report = (found.only.workdir / names.REPORT / names.PAGE).read_text()
    assert f'href="{names.WHY}"' in report and 'id="estimate"' in report


def test_the_same_call_does_nothing_anew_and_more_trials_go_on(found, asked):
    folder = found.only.workdir

    def stamps():
        files = [
            p for p in folder.rglob("*") if p.is_file() and "study.db" not in p.name
        ]
        return {p: p.stat().st_mtime_ns for p in files if p.name != names.LOCK}

    before = stamps()
    again = ad.tune(**asked, workdir=folder)
    assert stamps() == before and told(again) == told(found)
    with pytest.raises(StudyError, match=r"begun otherwise:\n  rungs: \[0.5\]"):
        ad.tune(**{**asked, "rungs": ()}, workdir=folder)


def test_a_later_choice_replaces_the_earlier_one_aloud(tmp_path, caplog):
    one, other = load("btf:tiny+raw"), load("btf:tiny+hog")
    (tmp_path / names.CONFIG).write_text(one.to_json())
    (tmp_path / names.METRICS).write_text("{}")
    (tmp_path / names.TRIALS).mkdir()
    with pytest.raises(StudyError, match="a run that was not chosen by a search"):
        final.make_room(tmp_path, one)
    (tmp_path / names.CHECKPOINTS).mkdir()
    (tmp_path / names.ESTIMATE).write_text("{}")
    final.make_room(tmp_path, one)
    assert (tmp_path / names.METRICS).exists()
    with caplog.at_level("WARNING", logger="absl"):
        final.make_room(tmp_path, other)
    assert "another setting is the best" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [names.TRIALS]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(
        candidates, "CANDIDATES", ("padim:tiny", "btf:tiny+raw", "btf:tiny+hog")
    )


def test_without_names_what_cannot_be_tried_is_left_out_and_why(few, asked):
    cache = asked["set"]["data.cache"]
    sets = tuple(f"{name}={x}" for name, x in FIELDS.items() if name[:4] == "data")
    sets = (*sets[1:], f"data.cache={cache}")
    with_names = Asked(("padim:tiny",), ("bun",), set=sets, mask_size=32)
    assert list(open_field(with_names).configs) == ["padim:tiny"]  # random weights
    field = open_field(Asked((), ("bun",), set=sets, mask_size=32))
    assert list(field.configs) == ["btf:tiny+raw", "btf:tiny+hog"]
    assert field.left_out == {"padim:tiny": "no weights for backbone"}
    wrong = Asked((), ("bun",), "", ("backbone=none.safetensors",), sets, 32)
    assert "none.safetensors" in open_field(wrong).left_out["padim:tiny"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": ("spine=F",)}, "weights: expected one of backbone, found 'spine'"),
        ({"set": ("data.category=bun",)}, "data.category is named by categories"),
        ({"set": ("btf:data.on_missing=skip",)}, "data.on_missing: expected one value"),
        ({"set": ("calibration.source=folds",)}, "calibration.source=folds: all train"),
        ({"data": "/nowhere"}, "data.root: /nowhere is not a folder"),
    ],
)
def test_mistakes_are_told_before_any_work(few, changes, words):
    with pytest.raises(ValueError, match=words):
        open_field(Asked(**changes))


def test_a_class_without_points_leaves_out_what_needs_them(few, asked, monkeypatch):
    monkeypatch.setattr(candidates, "_measured", lambda *_: frozenset({"rgb"}))
    sets = ("data.image_size=32", f"data.cache={asked['set']['data.cache']}")
    sets += ("data.sample_set.train=12", "btf:model.features=hog")
    with pytest.raises(StudyError, match="btf:tiny\\+raw: the class has no xyz"):
        open_field(Asked((), ("bun",), set=sets, mask_size=32))


def command(asked, folder, **more):
    """Returns the command of a search, as a process starts it."""
    flags = [f"--set={name}={x}" for name, x in asked["set"].items()]
    flags += [
        *("--systems=" + ",".join(SYSTEMS), f"--categories={asked['categories']}"),
        *("--mask_size=32", "--trials=3", f"--space={asked['space']}", "--rungs=0.5"),
        *("--planted_each=2", "--planted_kinds=" + ",".join(KINDS)),
        *(f"--{name}={x}" for name, x in more.items()),
        f"--workdir={folder}",
    ]
    return [sys.executable, "-m", "experiments.tune", *flags]


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_end(found, asked, tmp_path):
    folder = tmp_path / "w"
    own = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "cwd": tmp_path}
    words = command(asked, folder, heartbeat=1, grace=2)
    first = subprocess.Popen(words, **own)
    end = time.monotonic() + 600
    while not list(folder.glob(f"trials/*/{names.METRICS}")):
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(3)  # the lost trial is silent for longer than the grace
    done = subprocess.run(words, **own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on planted defects, an estimate" in done.stdout
    again = ad.tune(**asked, workdir=folder, heartbeat=1, grace=2)
    assert told(again) == told(found)


@pytest.mark.slow
def test_two_workers_come_to_the_same_end(found, asked, tmp_path):
    joined = ad.tune(**asked, workdir=tmp_path / "w", workers=2)
    # Which of two trials is halved depends on who comes first; values do not.
    known = {each.trial: each.value for each in found.only.ranking}
    for each in joined.only.ranking:
        assert each.value == known.get(each.trial, each.value)
    assert {each.trial for each in joined.only.ranking} & known.keys()


@pytest.mark.slow
def test_classes_may_share_a_setting(asked, tmp_path):
    both = {**asked, "categories": ("bun", "rope"), "share": True, "trials": 2}
    result = ad.tune(**both, workdir=tmp_path)
    assert list(result.classes) == ["bun", "rope"]
    chosen = {each.chosen.trial for each in result.classes.values()}
    assert len(chosen) == 1
    kinds = {f"{c}/{kind}" for c in ("bun", "rope") for kind in KINDS}
    for category, each in result.classes.items():
        assert set(each.chosen.kinds) == kinds
        assert each.workdir == tmp_path / category
        assert each.metrics["category"] == category and each.page.is_file()
    with pytest.raises(ValueError, match="name one of the classes bun, rope"):
        _ = result.detector
