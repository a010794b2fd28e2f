"""A run as an object is the run of the command; the public names are as documented."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ad3d_jax as ad
from ad3d_jax.experiment.config import known, load, variants
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study import space
from data_pipelines.reader import Reader

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "data.image_size": 56,
    "data.sample_set.train": 4,
    "data.sample_set.validation": 1,
    "data.sample_set.test_good": 2,
    "data.sample_set.test_per_defect": 1,
    "eval.images_per_defect": 0,
    "fit.engine": "jit",
}
# What a clock or a gauge of memory says.
MEASURED = ("seconds_fit", "seconds_score", "images_per_second", "peak_memory_bytes")


def told(metrics):
    """Returns what two equal runs have in common."""
    plain = json.loads(json.dumps(metrics))
    return {name: plain[name] for name in plain if name not in MEASURED}


def test_python_and_the_command_give_the_same_bits(tmp_path):
    fields = {**SMALL, "data.cache": str(tmp_path / "cache")}
    run = ad.Experiment("btf:raw", category="bun", workdir=tmp_path / "a", set=fields)
    run.fit()
    metrics = run.evaluate()
    assert told(metrics) == told(run.metrics)
    assert run.report.is_file() and not list(tmp_path.glob("a/lock.*"))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.main", "--config=btf:raw"),
            *(f"--config.{name}={value}" for name, value in fields.items()),
            *("--config.data.category", "bun", f"--workdir={tmp_path / 'b'}"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"report: {tmp_path / 'b'}" in done.stdout
    by_command = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert told(by_command) == told(metrics)
    scores = [(tmp_path / x / "scores.csv").read_text().splitlines() for x in "ab"]
    columns = [
        [line.split(",")[:6] + line.split(",")[7:10] for line in lines]
        for lines in scores
    ]
    assert columns[0] == columns[1]


def test_fitting_again_trains_nothing(tmp_path):
    fields = {**SMALL, "data.cache": str(tmp_path / "cache")}
    run = ad.Experiment("btf:raw", category="bun", workdir=tmp_path / "a", set=fields)
    with pytest.raises(ValueError, match="no fitted state"):
        run.evaluate()
    run.fit()
    before = (tmp_path / "a" / "log.jsonl").read_text()
    run.fit()
    after = (tmp_path / "a" / "log.jsonl").read_text().removeprefix(before)
    assert '"event": "fit"' in before and '"event": "fit"' not in after


def test_the_test_split_is_opened_by_the_evaluation_alone(tmp_path, monkeypatch):
    opened, source = [], Reader._source

    def watched(reader, split):
        opened.append(split)
        return source(reader, split)

    monkeypatch.setattr(Reader, "_source", watched)
    fields = {**SMALL, "data.cache": str(tmp_path / "cache")}
    run = ad.Experiment("btf:raw", category="bun", workdir=tmp_path / "a", set=fields)
    run.fit()
    assert set(opened) == {"train", "calibration"}
    assert run.evaluate()["i_auroc"] is not None
    assert set(opened) == {"train", "calibration", "test"}


def test_no_shipped_configuration_or_space_looks_at_the_test_split():
    files = known()
    names = [*files, *(f"{n}:{v}" for n in files for v in variants(n))]
    assert len(names) > 50
    for name in names:
        phases = build_system(load(name)).phases
        assert "test" not in {phase.source for phase in phases}, name
    spaces = known(space.HOME)
    assert spaces
    for name in spaces:
        fields = space.read_space(name).grid
        groups = {field.partition(".")[0] for field in fields}
        assert groups <= {"hyper", "model", "fit"}, name  # none of data and eval


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": "patchcoer"}, "did you mean 'patchcore'"),
        ({"config": "quickstart:cpu"}, "configuration quickstart has no variants"),
        ({"config": "patchcore:cup"}, "variant 'cup' of patchcore is unknown"),
        ({"config": "nowhere.py"}, "there is no file nowhere.py"),
        ({"set": {"model.fractoin": 0.1}}, "did you mean 'model.fraction'"),
        ({"set": {"model.fraction": "much"}}, "model.fraction: expected float"),
        ({"set": {"model": {}}}, "model: a group of fields"),
        ({"category": "nut"}, "the sample set has no 'nut'"),
        ({"data": "somewhere"}, "data.category: name one"),
        ({"weights": {"bakcbone": "x"}}, "did you mean 'weights.backbone'"),
    ],
)
def test_a_mistake_is_named_at_once(arguments, words):
    with pytest.raises(ValueError, match=words):
        ad.Experiment(**{"config": "patchcore:cpu", **arguments})


def test_the_public_names():
    assert ad.__all__ == [
        *("__version__", "Batch", "Detector", "Ensemble", "Experiment", "Gather"),
        *("SYSTEMS", "Scores", "State", "System", "Train", "Update", "ensemble"),
        *("grid", "inspect", "load", "population", "study", "tune"),
    ]
    for name in ad.__all__:
        assert getattr(ad, name) is not None and name in dir(ad)
    with pytest.raises(AttributeError, match="no attribute 'fti'"):
        ad.fti  # noqa: B018


def test_the_import_is_light():
    heavy = ("tensorflow", "open3d", "matplotlib", "jax", "ad3d_jax.base")
    code = f"import sys, ad3d_jax; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
