"""Every command is a page over the library: its length, flags and ends."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from optuna.trial import create_trial

from ad3d_jax.experiment import status
from ad3d_jax.experiment.config import changed, flags_of, load, plain
from ad3d_jax.experiment.study import report
from ad3d_jax.experiment.study.records import FIELDS
from ad3d_jax.fit.fit import Preempted
from ad3d_jax.workdir.disk import DiskFullError
from data_pipelines.command import DONE, USAGE
from experiments import command

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "experiments").glob("[a-z]*.py"))
PAGE = 80  # lines
# It imports nothing of the library: it runs where torch, safetensors and NumPy are.
ALONE = "convert_torch"


def test_the_commands_are_these():
    assert COMMANDS == [
        *("collect", "command", "convert_torch", "ensemble", "export", "grid", "help"),
        *("main", "population", "predict", "studies", "sweep", "synthesis", "tune"),
    ]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != ALONE])
def test_a_command_is_a_page(name):
    lines = (ROOT / "experiments" / f"{name}.py").read_text().splitlines()
    assert len(lines) <= PAGE


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "main"))
        for name in COMMANDS
        if name not in ("command", "help", "studies", ALONE)
    ],
)
def test_a_wrong_flag_ends_with_one_sentence_from_any_folder(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", "--wrokdir=x"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == USAGE
    assert "wrokdir" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["x", "--config.seed=1"], ["x", "--set=seed=1"]),
        (["--config.seed", "1", "y"], ["--set=seed=1", "y"]),
        (["--config.fit.x", "--mode=fit"], ["--set=fit.x", "--mode=fit"]),
        (["-config.fit.x", "-mode=fit"], ["--set=fit.x", "-mode=fit"]),
        (["-config.seed=1", "-config.x", "y"], ["--set=seed=1", "--set=x=y"]),
        (["--config.hyper.x", "-1.5"], ["--set=hyper.x=-1.5"]),
        (["--config.data.x", "a=b"], ["--set=data.x=a=b"]),
        (["--config", "btf:cpu"], ["--config", "btf:cpu"]),
        (["--config.data.root=a=b"], ["--set=data.root=a=b"]),
    ],
)
def test_fields_are_flags(given, expected):
    assert list(command.with_fields(given)) == expected


@pytest.fixture
def values():
    """The flags of a command with a configuration."""
    own = flags.FlagValues()
    command.define_config("quickstart", own)
    flags.DEFINE_string("workdir", "", "Folder.", own)
    return own


@pytest.mark.parametrize(
    "given",
    [
        ["--config=btf:cpu", "--config.seed=3", "--config.fit.tensorboard"],
        ["--config", "btf:cpu", "--config.seed", "3", "--config.fit.tensorboard=true"],
        ["-config", "btf:cpu", "-config.seed", "3", "-config.fit.tensorboard"],
        ["-config=btf:cpu", "--set=seed=3", "--set", "fit.tensorboard=yes"],
        ["--config.seed=3", "--config.fit.tensorboard", "--config=btf:cpu"],
    ],
)
def test_blank_or_equals_one_dash_or_two_in_any_order(given, values):
    assert command.parse(["main", *given], values) == ["main"]
    config = command.config_of(values)
    expected = load("btf:cpu")
    expected.seed, expected.fit.tensorboard = 3, True
    assert config == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["patchcore"], "no flag: 'patchcore'"),
        (["patchcore", "--config=btf:cpu"], "no flag: 'patchcore'"),
        (["--config=btf:cpu", "cable_gland"], "no flag: 'cable_gland'"),
        (["--config.data.root", "--config.data.category=x"], "found no value"),
        (["--config.data.root"], "data.root: expected data.root=VALUE, found no"),
        (["--config.fit.tensorboard", "perhaps"], "fit.tensorboard: expected bool"),
        (["--config=patchcoer"], "did you mean 'patchcore'"),
        (["--config=btf:cup"], "variant 'cup' of btf is unknown"),
        (["--config=patchcore:tiny", "--config.model.fraction=2"], "model.fraction: "),
        (["--config.sede=1"], "sede: no such field; did you mean 'seed'"),
        (["--workdir=gs://bucket/run"], "--workdir: expected a path of this machine"),
        (["--config.data.root=s3://x"], "data.root: expected a path of this machine"),
        (["--wrokdir=x"], "wrokdir"),
        (["-wrokdir", "x"], "wrokdir"),
    ],
)
def test_what_is_left_over_or_wrong_ends_with_one_sentence(
    given, words, values, capsys
):
    with pytest.raises(SystemExit) as ended:
        command.parse(["main", *given], values)
    said = capsys.readouterr().err
    assert ended.value.code == USAGE
    assert words in said and said.count("\n") == 1


def test_a_printed_command_can_be_pasted(values):
    """Of a study, as a shell and then the flags read it."""
    start = changed(
        load("patchcore:cpu"),
        {
            "data.root": "/my data/it's (new) & $HOME",
            "data.category": "cable gland",
            "data.recipe_parameters.resize_size": 256,
            "data.mask_size": 64,
        },
    )
    fields = {
        "model.modalities": ["rgb", "depth"],
        "model.fraction": 1e-05,
        "model.match": False,
        "fit.max_grad_norm": None,
        "data.recipe_parameters.image_size": [48, 64],
    }
    trial = create_trial(value=1.0, user_attrs={FIELDS: fields})
    words = shlex.split(report.command(trial, flags_of(start)))
    assert words[:3] == ["python", "-m", "experiments.main"]
    command.parse(["main", *words[3:]], values)
    typed = {n: tuple(x) if isinstance(x, list) else x for n, x in fields.items()}
    assert plain(command.config_of(values)) == plain(changed(start, typed))


def test_words_are_taken_where_a_command_asks_for_them(values):
    given = ["collect", "folder", "--workdir=x"]
    assert command.parse(given, values, positional=True) == ["collect", "folder"]
    assert values.workdir == "x"


@pytest.mark.parametrize("name", ["--help", "-help", "-h", "-?", "--helpshort"])
def test_help_lists_configurations_variants_and_fields(name, values, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(["main", "--config=patchcore:cpu", name], values)
    said = capsys.readouterr().out
    assert ended.value.code == DONE
    assert "btf, cfm, cpmf, das3d, dbrn" in said and "simplenet" in said
    assert "anomalib" in said and "wide_resnet50" in said
    assert "data.image_size = 128  (in [8, 4096])" in said
    assert "model.fraction = 0.1  (in (0, 1])" in said
    assert "Parameters of the recipe raw" in said and "interpolation = area" in said
    assert "model.choice = greedy  (one of ('greedy', 'random'))" in said


def test_help_of_a_configuration_that_is_none_names_the_nearest(values, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(["main", "--help", "--config", "patchcoer"], values)
    assert ended.value.code == USAGE
    assert "did you mean 'patchcore'" in capsys.readouterr().err


def test_help_is_printed_from_any_folder_and_may_be_cut(tmp_path):
    started = {
        "args": [sys.executable, "-m", "experiments.main", "--help"],
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "cwd": tmp_path,
        "text": True,
    }
    text = subprocess.run(**started, capture_output=True).stdout
    assert text.startswith("Fits a system")
    assert "--config:" in text and "quickstart" in text and "--workdir" in text
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(**started, **pipes) as cut:
        cut.stdout.close()  # before anything is printed
        assert cut.stderr.read() == ""


class Odd(Exception):
    """What no command expects."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("x: wrong"), 1, "error: x: wrong\n"),
        (DiskFullError("full"), 3, "error: full\n"),
        (
            OSError(28, "No space left", "f"),
            3,
            "error: f: no space is left to write it; make space and run the same",
        ),
        (
            PermissionError(13, "Denied", "f"),
            1,
            "error: f: Denied",
        ),
        (ImportError("needs Optuna"), 1, "error: needs Optuna\n"),
        (Preempted("stopped"), 75, ""),
        (status.Stopped("stopped"), 75, ""),
        (Odd("a defect"), None, ""),
        (ModuleNotFoundError("No module named 'x'", name="x"), None, ""),
    ],
)
def test_one_place_turns_errors_into_sentences_and_statuses(error, code, words, capsys):
    def fails():
        raise error

    if code is None:
        with pytest.raises(type(error)):
            status.status_of(fails)
        return
    assert status.status_of(fails) == code
    assert capsys.readouterr().err.startswith(words)


def test_what_a_command_returns_is_its_status():
    assert status.status_of(lambda: 75) == 75
    assert status.status_of(lambda: {"i_auroc": 1.0}) == 0
