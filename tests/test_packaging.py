"""The wheel is whole and serves from any folder; what it says of itself is true."""

import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from experiments.__main__ import commands

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ad3d_jax", "data_pipelines", "experiments")
BENCHMARKS = "experiments/benchmarks/"
EXTRA = re.compile(r"(?:ad3d_jax|\.)\[([a-z0-9,]+)\]")
MODULE = re.compile(r"python -m ((?:experiments|data_pipelines)\.\w[\w.]*\w)")
ABSENT = ("fcntl", "grp", "pwd", "resource", "termios")  # what Windows does not have
TEXTS = ("*.md", "docs/**/*.md", *(f"{name}/**/*.py" for name in PACKAGES))


def texts() -> str:
    """Returns all that the repository tells its users."""
    paths = [path for pattern in TEXTS for path in ROOT.glob(pattern)]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy without anything that was built before."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('built')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True)
    (path,) = (source / "built").glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The wheel, laid out as an installer does."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


def run(site, folder, *words):
    """Runs Python in a folder with what the wheel brought, and nothing of the clone."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_the_wheel_has_every_file_of_the_packages_but_benchmarks(wheel):
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*")]
    names = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected = {name for name in names if not name.startswith(BENCHMARKS)}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert "ad3d_jax/experiment/published.csv" in found and "ad3d_jax/py.typed" in found


def metadata(wheel, name):
    (path,) = (x for x in wheel.namelist() if x.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_extras_that_anything_names_are_there(wheel):
    about = email.message_from_string(metadata(wheel, "METADATA"))
    extras = set(about.get_all("Provides-Extra"))
    named = {name for names in EXTRA.findall(texts()) for name in names.split(",")}
    assert {"study", "tensorboard", "cuda12", "tpu", "docs", "test"} <= named
    assert named == extras
    assert about["License-Expression"] == "Apache-2.0"


def test_modules_that_anything_tells_to_run_are_there(wheel):
    named = set(MODULE.findall(texts())) - {"experiments.NAME", "experiments.X"}
    assert "experiments.convert_torch" in named
    for name in named:
        if not name.startswith(BENCHMARKS.replace("/", ".")):
            assert f"{name.replace('.', '/')}.py" in wheel.namelist()
        assert importlib.util.find_spec(name)


def test_every_command_is_one_of_the_console_command():
    names = {path.stem for path in (ROOT / "experiments").glob("[a-z]*.py")}
    assert set(commands()) == names - {"command", "help", "studies"} | {
        "preprocess",
        "validate",
    }


@pytest.fixture
def console(site, wheel, tmp_path):
    """The script that an installer makes, and an empty folder with a strange one."""
    found = re.search(r"^ad3d = (.*):(\w+)$", metadata(wheel, "entry_points.txt"), re.M)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "ad3d"
    script.write_text(f"from {found[1]} import {found[2]}\n{found[2]}()\n")
    (tmp_path / "here" / "experiments").mkdir(parents=True)
    strange = tmp_path / "here" / "experiments" / "__init__.py"
    strange.write_text("raise RuntimeError('the folder of somebody')")
    return lambda *words: run(site, tmp_path / "here", script, *words)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--help"], 0, "  main  "),
        ([], 2, "  predict  "),
        (["prdict"], 2, "error: no command: 'prdict'; did you mean 'predict'?"),
        (["--config=btf"], 2, "error: no command: '--config=btf'; ad3d --help lists"),
        (["collect", "nowhere"], 1, "error: nowhere/grid.json: there is no such file"),
        (["main", "--mode=fti"], 2, "flag --mode=fti: value should be one of"),
        (["validate", "--help"], 0, "--category: Classes;"),
        (["convert_torch", "a.pth", "b"], 2, "expected a name that ends in .safetens"),
    ],
)
def test_the_console_command_from_another_folder(console, words, status, says):
    done = console(*words)
    assert done.returncode == status
    assert says in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_the_converter_runs_where_the_library_does_not(site, tmp_path):
    (tmp_path / "jax.py").write_text("raise RuntimeError('jax is not installed')")
    done = run(site, tmp_path, "-m", "experiments.convert_torch", "--help")
    assert done.returncode == 0 and "throw-away environment" in done.stdout


def test_windows_is_refused_with_one_sentence_before_anything_is_written(tmp_path):
    """As there: no locks, no limits, no `os.pread`, no `os.fork`."""
    program = f"""
import importlib.abc, os, runpy, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
for name in {ABSENT!r}:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
del os.pread, os.fork
runpy.run_module("experiments.main", run_name="__main__", alter_sys=True)
"""
    words = ["-c", program, "--config=padim:tiny", "--workdir=runs/a"]
    done = run(ROOT, tmp_path, *words)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert "no fcntl; fit on Linux or macOS, on Windows within WSL" in line
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"lock"}
