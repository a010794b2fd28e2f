"""A system outside the library from its name to a detector, and to a grid's table."""

import json
import subprocess
import sys

import pytest
from absl import flags

import ad3d_jax as ad
from ad3d_jax.experiment.config import flags_of, load, plain, variants
from ad3d_jax.experiment.opening import workdir_of
from experiments import command, help
from experiments.configs.base import TINY

NAME = "reference_systems:restorer"
FIELDS = {**TINY, "model.steps": 2, "fit.engine": "jit"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the outside system, evaluated."""
    folder = tmp_path_factory.mktemp("outside")
    fields = {**FIELDS, "data.cache": str(folder / "cache")}
    run = ad.Experiment(NAME, category="bun", workdir=folder / "run", set=fields)
    run.fit()
    run.evaluate()
    return run


def test_its_workdir_names_it_and_is_opened_by_another_process(finished):
    assert finished.metrics["system"] == NAME
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
import ad3d_jax as ad
detector = ad.load({str(finished.workdir)!r})
print(detector, float(detector.state.params["encoder"].sum()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    here = finished.detector
    total = float(here.state.params["encoder"].sum())
    assert done.stdout.splitlines()[-1] == f"{here} {total}"
    assert NAME in str(here)


def test_without_its_module_a_workdir_says_what_is_missing(finished, tmp_path):
    path = finished.workdir / "checkpoints" / "origin.json"
    origin = json.loads(path.read_text())
    origin["config"]["system"] = "gone_away:make"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "origin.json").write_text(json.dumps(origin))
    with pytest.raises(ValueError, match="system: gone_away: ModuleNotFoundError"):
        ad.load(tmp_path)


def test_commands_take_it_by_its_name(capsys):
    values = flags.FlagValues()
    command.define_config("quickstart", values)
    given = ["main", f"--config={NAME}", "--config.model.steps=7"]
    assert command.parse(given, values) == ["main"]
    config = command.config_of(values)
    assert (config.system, config.model.steps) == (NAME, 7)
    assert flags_of(config) == [f"--config={NAME}", "--config.model.steps=7"]
    assert variants(NAME) == [] and "model.steps = 120" in "\n".join(
        help.configurations(NAME)
    )
    with pytest.raises(SystemExit):
        command.parse(["main", "--config=reference_systems:rest"], values)
    assert "found nothing of that name" in capsys.readouterr().err


def test_a_file_of_ones_own_may_configure_it_with_variants(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"""
from experiments.configs.base import apply_variants, base_config
VARIANTS = {{"wide": {{"model.width": 3}}}}
def get_config(variant=""):
    return apply_variants(base_config("{NAME}", recipe="raw"), variant, VARIANTS)
""")
    config = load(f"{file}:wide")
    assert config.model.width == 3 and variants(str(file)) == ["wide"]
    expected = load(NAME)
    expected.model.width, expected.variant = 3, "wide"
    assert plain(config) == plain(expected)
    words = ["--config.model.width=3"]
    assert flags_of(config) == [f"--config={NAME}", *words]


def test_a_name_that_is_neither_is_no_configuration():
    with pytest.raises(ValueError, match="configuration|config: no 'drem'"):
        load("drem:cpu")
    with pytest.raises(ValueError, match="system: no.such: ModuleNotFoundError"):
        load("no.such:make")


def test_folders_have_plain_names(tmp_path):
    assert workdir_of(load(NAME)).name == "reference_systems-restorer-biscuit"
    dotted = load(NAME)
    dotted.system = "my.pkg:make"
    assert workdir_of(dotted).name == "my.pkg-make-biscuit"
