"""A user's mistake is one sentence before any work, and never a trace."""

import json

import pytest

import ad3d_jax as ad
from ad3d_jax.experiment import recipes, run, status, table_files
from ad3d_jax.experiment.cells import read_cell
from ad3d_jax.experiment.config import changed, load, plain, read_config
from ad3d_jax.experiment.inspect import inspect
from ad3d_jax.experiment.origin import Origin
from ad3d_jax.experiment.synthesis import draw_anomalies
from ad3d_jax.workdir import names
from data_pipelines import command, sources

NO_NETWORK = {"model.features": "fpfh", "model.backbone": ""}


@pytest.fixture
def no_work(monkeypatch, tmp_path):
    """Fails where data is prepared; gives a place for a workdir."""

    def work(*_, **__):
        pytest.fail("work began")

    monkeypatch.setattr(sources, "open_data", work)
    monkeypatch.setattr(sources, "sample_set", work)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("config", "fields", "words"),
    [
        (
            "patchcore:tiny",
            {"weights.backbone": "gone.npz"},
            "weights.backbone: no such",
        ),
        ("draem:tiny", {"weights.textures": "gone"}, "weights.textures: no such file"),
        ("dsr:tiny", {"data.images": "gone"}, "data.images: there is no folder 'gone'"),
        (
            "dsr:tiny",
            {"save_weights.dada": "file/dada.safetensors"},
            "save_weights.dada .*: expected a folder that can be written to",
        ),
    ],
)
def test_what_is_missing_is_told_before_any_work(config, fields, words, no_work):
    (no_work.parent / "file").write_text("")
    with pytest.raises(ValueError, match=words):
        run.run(changed(load(config), fields), no_work)
    assert not no_work.exists()


def test_a_missing_package_is_told_before_any_work(no_work, monkeypatch, capsys):
    config = changed(load("btf:tiny"), {**NO_NETWORK, "fit.tensorboard": True})
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    code = status.status_of(lambda: run.run(config, no_work))
    assert code == command.MISTAKE
    assert "needs the package tensorboard" in capsys.readouterr().err
    assert not no_work.exists()


def test_an_output_that_is_a_file_is_told_before_any_work(no_work):
    no_work.write_text("")
    with pytest.raises(ValueError, match="^output .*run: expected a folder that can"):
        inspect("gone", "gone", no_work)
    with pytest.raises(ValueError, match="^output .*run: expected a folder that can"):
        draw_anomalies("draem:tiny", no_work)


def test_a_device_that_is_not_there_is_one_sentence(monkeypatch, capsys):
    def fails():
        raise AssertionError  # as jax does for a plugin that is not installed

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr("jax.devices", fails)
    assert status.status_of(fails) == command.MISTAKE
    assert capsys.readouterr().err == (
        "error: JAX_PLATFORMS=cuda: jax finds no such device on this machine\n"
    )
    monkeypatch.setattr("jax.devices", lambda: ["cpu:0"])
    with pytest.raises(AssertionError):  # it was something else
        status.status_of(fails)


def finished(folder):
    """Writes what a finished run has but its state."""
    folder.mkdir()
    config = changed(load("btf:tiny"), NO_NETWORK)
    (folder / names.CONFIG).write_text(json.dumps(plain(config)))
    params = {**recipes.complete_parameters("raw", {}), "extras": []}
    recipe = {"recipe": "raw", "params": params}
    origin = Origin(plain(config), recipe, {}, [[32, 32]], [], {})
    (folder / names.CHECKPOINTS).mkdir()
    (folder / names.ORIGIN).write_text(json.dumps(origin._asdict()))
    return folder


NESTED = "[" * 100_000
NESTED_LESS = '{"a":' * 500 + "1" + "}" * 500


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{}", "there is no 'config' in it"),
        ("[]", "expected a JSON object, found a list"),
        (NESTED, "maximum recursion"),
        (NESTED_LESS, "expected at most 50 objects"),
        ({"config": {"system": "btf", "variant": 3}}, "there is no 'config.seed' in"),
        ({"recipe": {}}, "recipe: expected a str"),
        (
            {"recipe": {"recipe": "raw", "params": {}}},
            "params: there is no 'depth_interpolation'",
        ),
        ({"recipe": {"recipe": "raw", "params": 3}}, "params: expected a dict"),
        ({"recipe": {"recipe": "rwa", "params": {}}}, "data.recipe: expected one of"),
    ],
)
def test_a_damaged_workdir_is_named(change, words, tmp_path):
    folder = finished(tmp_path / "run")
    with pytest.raises(ValueError, match="no fitted state"):
        ad.load(folder)
    path = folder / names.ORIGIN
    if not isinstance(change, str):
        change = json.dumps(json.loads(path.read_text()) | change)
    path.write_text(change)
    with pytest.raises(ValueError, match=f"origin.json: {words}"):
        ad.load(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "there is no 'system' in it"),
        ("[]", "expected a JSON object, found a list"),
        (NESTED, "maximum recursion"),
        ('{"system": "btf", "variant": 3}', "there is no 'seed' in it"),
        (NESTED_LESS, "expected at most 50 objects"),
    ],
)
def test_a_damaged_configuration_is_named(text, words, tmp_path):
    folder = finished(tmp_path / "run")
    (folder / names.CONFIG).write_text(text)
    with pytest.raises(ValueError, match=f"config.json: {words}"):
        read_config(folder)


def test_a_field_of_a_stored_configuration_that_is_damaged_is_named(tmp_path):
    folder = finished(tmp_path / "run")
    stored = json.loads((folder / names.CONFIG).read_text())
    stored["data"]["batch_size"] = "many"
    (folder / names.CONFIG).write_text(json.dumps(stored))
    with pytest.raises(
        ValueError, match="config.json: data.batch_size: expected a who"
    ):
        read_config(folder)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (names.METRICS, "{}", "there is no 'mask_size' in it"),
        (names.METRICS, "[]", "expected a JSON object"),
        (names.FAILED, "{}", "there is no 'reason' in it"),
    ],
)
def test_a_damaged_cell_of_a_grid_is_named(file, text, words, tmp_path):
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file}: {words}"):
        read_cell(tmp_path, 256)


def test_a_damaged_grid_is_named(tmp_path):
    (tmp_path / names.GRID).write_text("{}")
    with pytest.raises(ValueError, match="grid.json: there is no 'systems' in it"):
        table_files.write_tables(tmp_path)
