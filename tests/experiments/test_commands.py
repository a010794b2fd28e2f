"""Every command is a page over the library: its length, flags and ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ad3d_jax.experiment import status
from ad3d_jax.fit.fit import Preempted
from data_pipelines.errors import DiskFullError
from experiments import command

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "experiments").glob("[a-z]*.py"))
PAGE = 80  # lines


def test_the_commands_are_these():
    assert COMMANDS == [
        *("collect", "command", "grid", "main", "population", "predict", "sweep"),
        "synthesis",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_page(name):
    lines = (ROOT / "experiments" / f"{name}.py").read_text().splitlines()
    assert len(lines) <= PAGE


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "main"))
        for name in COMMANDS
        if name != "command"
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
    assert done.returncode == status.USAGE
    assert "wrokdir" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["x", "--config.seed=1"], ["x", "--set=seed=1"]),
        (["--config.seed", "1", "y"], ["--set=seed=1", "y"]),
        (["--config.fit.tensorboard", "--mode=fit"], None),
        (["--config", "btf:cpu"], ["--config", "btf:cpu"]),
        (["--config.data.root=a=b"], ["--set=data.root=a=b"]),
    ],
)
def test_fields_are_flags(given, expected):
    if expected is None:
        expected = ["--set=fit.tensorboard=true", "--mode=fit"]
    assert list(command.with_fields(given)) == expected


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
            "error: no space is left: f\n",
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
