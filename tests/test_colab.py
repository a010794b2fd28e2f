"""What the notebooks' installation refuses; scans from Drive and from a computer."""

import importlib.metadata
import importlib.util
import runpy
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLAB = Path(__file__).resolve().parents[1] / "colab"


@pytest.fixture
def cell(monkeypatch, tmp_path):
    """Runs the cell of the installation in an empty folder; no pip, no accelerator."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AD3D_SOURCE", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    ran: list = []

    def run() -> list:
        runpy.run_path(str(COLAB / "install.py"))
        return ran

    return run


def pretend(monkeypatch, versions: dict):
    """Lets packages have other versions; None is a package that is not there."""
    true = importlib.metadata.version

    def version(name):
        if versions.get(name, "") is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(name) or true(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_what_fits_stays(cell, capsys):
    assert cell() == []
    assert capsys.readouterr().out.startswith("jax 0.1")


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({"jax": "0.6.2"}, r"has jax 0.6.2: run !pip install -U 'jax<0.12,>=0.10'"),
        ({"flax": "0.10.1"}, r"has flax 0.10.1: run !pip install -U 'flax"),
        ({"numpy": "1.26.4"}, r"has numpy 1.26.4: run !pip install -U 'numpy>=2.0'"),
        ({"jax": "0.9", "numpy": "1.2"}, r"has jax 0.9, numpy 1.2: run .*restart"),
    ],
)
def test_what_does_not_fit_is_one_sentence(cell, monkeypatch, versions, says):
    pretend(monkeypatch, versions)
    with pytest.raises(SystemExit, match=says):
        cell()


def test_what_is_missing_is_installed_and_jax_and_numpy_are_held(cell, monkeypatch):
    absent = {"tifffile": None, "tensorflow-cpu": None, "tensorflow": "2.19.0"}
    pretend(monkeypatch, {**absent, "numpy": "2.1.0"})
    (command,) = cell()
    assert "tifffile>=2024.8.10" in command and "numpy==2.1.0" in command
    assert not [word for word in command if word.startswith("tensorflow")]


def test_the_library_comes_from_a_wheel_beside_the_notebook(
    cell, monkeypatch, tmp_path
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="set SOURCE above, or upload a wheel"):
        cell()
    (tmp_path / "ad3d_jax-0.1.0-py3-none-any.whl").touch()
    (command,) = cell()
    assert command[-2:] == ["--no-deps", "ad3d_jax-0.1.0-py3-none-any.whl"]


def own_scans(text: str) -> None:
    """Runs the last cell of the second notebook, changed."""
    source = (COLAB / "02_your_own_data.py").read_text(encoding="utf-8")
    code = source.rpartition("# %%\n")[2]
    start = "from pathlib import Path\nfrom data_pipelines.validate import validate\n"
    for line in text.splitlines():
        name = line.partition(" ")[0]
        (old,) = (x for x in code.splitlines() if x.startswith(f"{name} ="))
        code = code.replace(old, line)
    exec(compile(start + code, "cell", "exec"), {})


def test_scans_are_uploaded_as_a_zip(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation", "test"):
        place = Path("scans/bread", split, "good")
        for name, suffix in (("rgb", "png"), ("xyz", "tiff")):
            (place / name).mkdir(parents=True)
            values = np.full((32, 32, 3), 9, np.uint8 if name == "rgb" else np.float32)
            Image.fromarray(np.uint8(values)).save(place / name / f"0.{suffix}")
    with zipfile.ZipFile("scans.zip", "w") as file:
        for path in Path("scans").rglob("*.*"):
            file.write(path, path.relative_to("scans"))
    files = types.SimpleNamespace(upload=lambda: {"scans.zip": b""})
    drive = types.SimpleNamespace(mount=lambda place: None)
    fake = types.ModuleType("google.colab")
    fake.files, fake.drive = files, drive
    monkeypatch.setitem(sys.modules, "google.colab", fake)
    own_scans("UPLOAD = True")
    uploaded = capsys.readouterr().out
    own_scans(f'DRIVE = "{tmp_path / "scans"}"')  # an absolute path stays one
    assert uploaded.startswith("bread\n") and "uploaded/bread/train" in uploaded
    assert capsys.readouterr().out == uploaded.replace("uploaded", f"{tmp_path}/scans")
    own_scans("")
    assert capsys.readouterr().out == ""
