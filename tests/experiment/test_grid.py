"""The grid: what is skipped, what fails, what is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ad3d_jax as ad
from ad3d_jax.experiment import grid as grids
from ad3d_jax.experiment import scopes, table_files
from ad3d_jax.experiment.cells import SAMPLE_SET, Grid, cell_folder, keep
from ad3d_jax.experiment.config import plain
from ad3d_jax.experiment.grid import (
    Cell,
    ask,
    config_of,
    configs_of,
    run_cell,
    run_cells,
)
from ad3d_jax.experiment.status import PREEMPTED
from ad3d_jax.workdir import names

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "data.image_size=56",
    "data.sample_set.train=4",
    "data.sample_set.validation=1",
    "data.sample_set.test_good=2",
    "data.sample_set.test_per_defect=1",
    "data.sample_set.seed=0",
    "eval.images_per_defect=0",
)


def asked(tmp_path, **changes):
    values = {
        "systems": ("btf:raw",),
        "categories": ("biscuit", "bun"),
        "seeds": (0, 1),
        "dataset": SAMPLE_SET,
        "mask_size": 56,
        "data_root": "",
        "overrides": (f"data.cache={tmp_path / 'cache'}", *TINY),
    }
    return Grid(**{**values, **changes})


class Runner:
    """Stands for processes: a cell writes its metrics, fails or is stopped."""

    def __init__(self, monkeypatch, states):
        self.ran, self._states = [], states
        monkeypatch.setattr(grids, "run_cell", self)

    def __call__(self, config, place, running):
        cell = Cell("btf:raw", config.data.category, config.seed)
        self.ran.append(cell)
        state = self._states.get((cell.category, cell.seed), "done")
        if state == "done":
            place.mkdir(parents=True)
            (place / "metrics.json").write_text("{}")
        return state


def test_every_cell_runs_once_and_a_failure_stops_nothing(tmp_path, monkeypatch):
    runner = Runner(monkeypatch, {("biscuit", 1): "failed"})
    counts = run_cells(asked(tmp_path), tmp_path / "table")
    assert counts == {"done": 3, "failed": 1, "stopped": 0} and len(runner.ran) == 4
    again = Runner(monkeypatch, {})
    assert run_cells(asked(tmp_path), tmp_path / "table")["done"] == 4
    assert again.ran == [Cell("btf:raw", "biscuit", 1)]


def test_a_grid_may_grow_but_not_change(tmp_path):
    keep(asked(tmp_path), tmp_path)
    keep(asked(tmp_path, systems=("padim",), seeds=(2,)), tmp_path)
    kept = json.loads((tmp_path / "grid.json").read_text())
    assert kept["systems"] == ["btf:raw", "padim"] and kept["seeds"] == [0, 1, 2]
    with pytest.raises(ValueError, match="begun with mask_size 56, found 64"):
        keep(asked(tmp_path, mask_size=64), tmp_path)


def test_settings_of_single_systems_grow_with_them_and_do_not_change(tmp_path):
    fast = {"padim": ("model.dimensions=9",)}
    keep(asked(tmp_path), tmp_path)
    keep(asked(tmp_path, systems=("padim",), settings=fast), tmp_path)
    keep(asked(tmp_path, controls={"btf:raw": ("backbone",)}), tmp_path)
    kept = json.loads((tmp_path / "grid.json").read_text())
    assert kept["settings"] == {"padim": ["model.dimensions=9"]}
    assert kept["controls"] == {"btf:raw": ["backbone"]}
    with pytest.raises(ValueError, match="begun with settings of padim .*, found \\[]"):
        keep(asked(tmp_path, systems=("padim",)), tmp_path)
    with pytest.raises(ValueError, match="begun with settings of btf:raw \\[], found"):
        keep(asked(tmp_path, settings={"btf:raw": ("seed=1",)}), tmp_path)


def test_a_grid_of_before_has_no_settings_of_single_systems(tmp_path):
    keep(asked(tmp_path), tmp_path)
    old = json.loads((tmp_path / "grid.json").read_text())
    del old["settings"], old["controls"]
    (tmp_path / "grid.json").write_text(json.dumps(old))
    keep(asked(tmp_path), tmp_path)


SYSTEMS = {
    "patchcore:resnet18": "patchcore",
    "patchcore:cpu": "patchcore",
    "/my/own.py:fast": "patchcore",
    "btf:cpu": "btf",
    "my.module:make": "my.module:make",
}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        (
            "patchcore:seed_=1",
            ["patchcore:resnet18", "patchcore:cpu", "/my/own.py:fast"],
        ),
        ("patchcore:resnet18:seed_=1", ["patchcore:resnet18"]),
        ("/my/own.py:seed_=1", ["/my/own.py:fast"]),
        ("/my/own.py:fast:seed_=1", ["/my/own.py:fast"]),
        ("my.module:make:seed_=1", ["my.module:make"]),
        ("btf:seed_=1", ["btf:cpu"]),
    ],
)
def test_a_name_before_a_field_says_whose_it_is(text, met):
    for_all, own = scopes.apart([text], SYSTEMS)
    assert for_all == () and own == {name: ("seed_=1",) for name in met}


def test_only_what_stands_before_the_equals_is_a_name():
    given = ["weights.a=hub:b=c", "btf:weights.a=C:/d=e", "btf:fit.tensorboard"]
    for_all, own = scopes.apart(given, SYSTEMS)
    assert for_all == ("weights.a=hub:b=c",)
    assert own == {"btf:cpu": ("weights.a=C:/d=e", "fit.tensorboard")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ptchcore:a=1", "set: ptchcore:a=1: the grid has no 'ptchcore'; did you mean"),
        ("patchcore:tiny:a=1", "the grid has no 'patchcore:tiny'"),
        ("seed=1", "set: seed is named by seeds"),
        ("btf:data.category=x", "data.category is named by categories"),
        ("btf:data.mask_size=9", "data.mask_size is named by mask_size"),
    ],
)
def test_a_setting_that_meets_no_cell_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        scopes.apart([text], SYSTEMS)


def asking(systems, categories=("bun",), data="", set=(), control=False):
    return ask(systems, categories, (0,), data, "", 56, set, control)


def test_what_is_nearer_to_a_configuration_wins():
    given = asking(
        ["padim:tiny", "padim:resnet18", "btf:raw"],
        set={
            "padim:tiny:model.dimensions": 7,
            "padim:model.dimensions": 8,
            "padim:weights.backbone": Path("a.npz"),
            "fit.keep": 3,
            "padim:fit.keep": 4,
        },
    )
    tiny, resnet18, btf = configs_of(given).values()
    assert (tiny.model.dimensions, resnet18.model.dimensions) == (7, 8)
    assert (tiny.fit.keep, resnet18.fit.keep, btf.fit.keep) == (4, 4, 3)
    assert tiny.weights.backbone == "a.npz"
    assert given.overrides == ("fit.keep=3",)
    with pytest.raises(ValueError, match="^btf:raw: weights.backbne: no such field"):
        asking(["btf:raw"], set={"weights.backbne": "x"})


def test_a_control_is_the_same_cell_without_its_networks():
    """Textures and systems without weights have none."""
    given = asking(
        ["padim:tiny", "draem:tiny", "btf:raw"],
        set={"padim:weights.backbone": "a.npz", "draem:weights.textures": "folder"},
        control=True,
    )
    assert given.controls == {"padim:tiny": ("backbone",)}
    cells = configs_of(given)
    assert [(c.system, c.control) for c in cells] == [
        *(("padim:tiny", False), ("padim:tiny", True)),
        *(("draem:tiny", False), ("btf:raw", False)),
    ]
    padim, control, *_ = cells.values()
    assert (padim.weights.backbone, control.weights.backbone) == ("a.npz", "")
    padim.weights.backbone = ""
    assert plain(padim) == plain(control)
    places = [str(cell.folder) for cell in cells][:2]
    assert places == [
        "padim-tiny/bun/seed-0",
        "padim-tiny/bun/seed-0-random-weights",
    ]


@pytest.mark.parametrize("asked_for", ["all", (), ["all"]])
def test_all_classes_are_those_of_the_data(tmp_path, asked_for):
    given = asking(["btf:raw"], asked_for)
    assert given.categories == ("biscuit", "bun", "flange", "rope")
    for name in ("screw", "a cable"):
        (tmp_path / name / "train").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    given = asking(["btf:raw"], asked_for, data=tmp_path)
    assert given.categories == ("a cable", "screw")
    with pytest.raises(ValueError, match="notes has no folder with train in it"):
        asking(["btf:raw"], asked_for, data=tmp_path / "notes")
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        asking(["btf:raw"], asked_for, data=tmp_path / "nowhere")


def test_a_class_alone_needs_no_list_and_counts_once():
    assert asking(["btf:raw"], "bun").categories == ("bun",)
    assert asking(["btf:raw", "btf:raw"], ["bun", "bun"]).systems == ("btf:raw",)


@pytest.mark.parametrize(
    ("system", "folder"),
    [
        ("dbrn:cpu+rgb", "dbrn-cpu+rgb"),
        ("my.module:make", "my.module-make"),
        ("/my/own.py:fast", "%2fmy%2fown.py-fast"),
        ("../own-1.py", "..%2fown%2d1.py"),
    ],
)
def test_the_folder_of_a_cell_lies_in_that_of_the_grid(system, folder):
    assert cell_folder(system, "bun", 3).parts == (folder, "bun", "seed-3")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"systems": ("drem",)}, "config: no 'drem'; did you mean 'draem'"),
        ({"systems": ("btf:fhpf",)}, "variant 'fhpf' of btf is unknown"),
        ({"overrides": ("hyper.nise=1",)}, "hyper.nise: no such field"),
        ({"systems": ()}, "systems: expected one at least"),
        ({"categories": ()}, "categories: expected one at least"),
        ({"seeds": ()}, "seeds: expected one at least"),
    ],
)
def test_mistakes_end_it_before_any_work(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        run_cells(asked(tmp_path, **changes), tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_a_cell_is_a_configuration_with_its_fields_in_their_types(tmp_path):
    more = ("model.steps=7", "hyper.beta_max=1", "model.modalities=('rgb',)")
    given = asked(tmp_path, overrides=more, mask_size=64)
    config = config_of(given, Cell("dbrn:cpu+rgb", "bun", 3))
    expected = ad.Experiment(
        "dbrn:cpu+rgb",
        category="bun",
        set={
            "seed": 3,
            "data.mask_size": 64,
            "model.steps": 7,
            "hyper.beta_max": 1.0,
            "model.modalities": ("rgb",),
        },
    ).config
    assert plain(config) == plain(expected)
    assert isinstance(config.hyper.beta_max, float)
    folder = Cell("dbrn:cpu+rgb", "bun", 3).folder
    assert str(folder) == "dbrn-cpu+rgb/bun/seed-3"


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("exit 75", "stopped"),
        ("kill -TERM $$", "stopped"),
        ("exit 1", "failed"),
        ("kill -KILL $$", "failed"),
    ],
)
def test_only_what_was_asked_to_stop_counts_as_stopped(
    tmp_path, monkeypatch, end, state
):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{end}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    config = config_of(asked(tmp_path), Cell("btf:raw", "bun", 0))
    assert run_cell(config, tmp_path / "cell", []) == state
    told = (tmp_path / "cell" / names.FAILED).exists()
    assert told == (state == "failed")


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_gives_the_same_table(tmp_path):
    def command(name):
        given = asked(tmp_path)
        return [
            *(sys.executable, "-m", "experiments.grid"),
            *("--systems=btf:raw,padim:cpu", "--categories=biscuit,bun"),
            *("--seeds=0", "--mask_size=56"),
            f"--workdir={tmp_path / name}",
            *(f"--set={override}" for override in given.overrides),
        ]

    def tables(name):
        names = ("table.md", "table.csv", "table.tex")
        return [(tmp_path / name / n).read_text() for n in names]

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    plain = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
    whole = subprocess.run(command("whole"), timeout=600, **plain)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    process = subprocess.Popen(command("killed"), cwd=ROOT, env=environment)
    first = tmp_path / "killed" / cell_folder("btf:raw", "biscuit", 0)
    deadline = time.monotonic() + 300
    while not (first / "metrics.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1.0)  # into the second cell
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == PREEMPTED
    assert len(list((tmp_path / "killed").rglob("metrics.json"))) < 4
    again = subprocess.run(command("killed"), timeout=600, **plain)
    assert again.returncode == 0, again.stdout + again.stderr
    assert tables("killed") == tables("whole")


@pytest.mark.slow
def test_a_failing_cell_is_told_of(tmp_path):
    root = str(tmp_path / "nowhere")
    given = asked(tmp_path, categories=("bun",), seeds=(0,), data_root=root)
    counts = run_cells(given, tmp_path / "table")
    assert counts["failed"] == 1
    text = table_files.write_tables(tmp_path / "table")[0].read_text()
    assert "btf:raw, bun: seed 0: failed:" in text
