"""What files bring: checked before any work, read and hashed once a run."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import ad3d_jax as ad
from ad3d_jax.experiment import population, pretrained, run
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.state import build_system, initial_state
from ad3d_jax.features import weights
from ad3d_jax.features.extractors import init_backbone
from ad3d_jax.features.known import KNOWN

TINY = {
    "data.image_size": 32,
    "data.sample_set.train": 4,
    "data.sample_set.validation": 1,
    "data.sample_set.test_good": 1,
    "data.sample_set.test_per_defect": 1,
    "eval.images_per_defect": 0,
    "fit.engine": "jit",
}


@pytest.fixture
def config(tmp_path):
    config = load("patchcore:cpu")
    config.update_from_flattened_dict({**TINY, "data.cache": str(tmp_path / "cache")})
    return config


def brought(config):
    return pretrained.bring(config, build_system(config))


def save(path, name="resnet18", last_layer="layer3", seed=0, **metadata):
    key = jax.random.key(seed)
    tree = jax.tree.map(np.asarray, init_backbone(key, name, last_layer))
    weights.save(path, tree, metadata)
    return str(path)


def refused(config, tmp_path, words):
    """Asserts that a run ends with these words and has prepared nothing."""
    with pytest.raises(ValueError, match=words):
        run.run(config, tmp_path / "run", "fit")
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


def test_without_a_file_a_network_is_said_to_be_random(config, caplog):
    assert brought(config) == pretrained.Brought({}, {"backbone": "random"})
    assert "RANDOM WEIGHTS: the backbone of patchcore" in caplog.text
    caplog.clear()
    assert brought(load("dbrn:cpu")).facts == {}  # textures are procedural
    assert brought(load("dsr3d:pretrain")).facts == {}  # a phase makes them
    assert "RANDOM" not in caplog.text


def test_a_file_is_named_with_its_digest(config, tmp_path, caplog):
    config.weights.backbone = save(tmp_path / "w.safetensors")
    digest = weights.read(tmp_path / "w.safetensors").sha256
    expected = {"file": "w.safetensors", "sha256": digest, "source": None}
    found = brought(config)
    assert found.facts == {"backbone": expected}
    assert "w.safetensors: whose weights these are is not known" in caplog.text
    tree = init_backbone(jax.random.key(0), "resnet18", "layer3")
    jax.tree.map(np.testing.assert_array_equal, found.trees["backbone"], tree)


def test_each_file_is_opened_once_a_run_and_not_at_all_when_fitted(
    config, tmp_path, monkeypatch
):
    config.weights.backbone = save(tmp_path / "w.safetensors")
    opened, real = [], Path.read_bytes

    def counted(path):
        opened.append(path.name)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    metrics = run.run(config, tmp_path / "run")
    assert opened.count("w.safetensors") == 1
    Path(config.weights.backbone).unlink()
    again = run.run(config, tmp_path / "run")
    assert again["weights"] == metrics["weights"]
    assert again["weights"]["backbone"]["file"] == "w.safetensors"
    assert again["i_auroc"] == metrics["i_auroc"]
    ad.load(tmp_path / "run")
    assert opened.count("w.safetensors") == 1


def test_a_file_that_is_another_one_after_the_fit_is_refused(config, tmp_path):
    config.weights.backbone = save(tmp_path / "w.safetensors")
    metrics = run.run(config, tmp_path / "run")
    before = metrics["weights"]["backbone"]["sha256"]
    save(tmp_path / "w.safetensors", seed=1)
    now = weights.read(tmp_path / "w.safetensors").sha256
    with pytest.raises(ValueError, match=f"weights.backbone: '{before}' -> '{now}'"):
        run.run(config, tmp_path / "run")
    # What was fitted stays what it was, and can be used.
    again = run.run(config, tmp_path / "run", "eval")
    assert again["weights"] == metrics["weights"]
    assert again["i_auroc"] == metrics["i_auroc"]


def test_another_known_set_is_refused(config, tmp_path):
    (digest,) = KNOWN["timm/resnet18.a1_in1k"].torch
    path = save(tmp_path / "w.safetensors", source="r.pth", sha256=digest + "0" * 56)
    config.weights.backbone = path
    refused(config, tmp_path, "a1_in1k")
    config.model.source = ""
    assert brought(config).facts["backbone"]["source"] == "a1_in1k"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "resnet50"}, "not of resnet18"),
        ({"last_layer": "layer2"}, "missing: "),
    ],
)
def test_what_does_not_fit_is_refused(config, tmp_path, change, words):
    config.weights.backbone = save(tmp_path / "w.safetensors", **change)
    refused(config, tmp_path, words)


def test_a_torch_file_is_refused(config, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02.")
    config.weights.backbone = str(tmp_path / "w.pth")
    refused(config, tmp_path, r"experiments.convert_torch w.pth w.safetensors")


def test_a_part_that_the_system_has_not_takes_no_file(tmp_path):
    config = load("btf:fpfh")
    config.data.cache = str(tmp_path / "cache")
    assert brought(config).facts == {}
    config.weights.backbone = save(tmp_path / "w.safetensors")
    refused(config, tmp_path, r"weights.backbone: btf \(fpfh\) has no backbone")
    with pytest.raises(ValueError, match="weights.textures: no such field"):
        ad.Experiment("dsr3d:cpu", weights={"textures": "dtd"})


def test_a_file_of_a_phase_that_is_not_there_is_refused(tmp_path):
    config = load("dsr3d:cpu")
    config.weights.dada = "shipped:dada_of_nobody"
    with pytest.raises(ValueError, match="weights.dada: no 'shipped:dada_of_nobody'"):
        brought(config)
    config.weights.dada = str(tmp_path / "dada.safetensors")
    with pytest.raises(ValueError, match="weights.dada: no such file"):
        brought(config)


def test_what_is_shipped_stands_for_its_phase():
    config = load("dsr3d:cpu")
    system = build_system(config)
    found = pretrained.bring(config, system)
    assert found.facts["dada"]["file"] == "dada_rgbd_light.safetensors"
    assert pretrained.loaded(config) == ("dada",)


def test_a_folder_of_textures_is_a_part_like_others(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "dtd").mkdir()
    for number in range(3):
        image = random.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "dtd" / f"{number}.png")
    config = load("draem:cpu")
    config.weights.textures = str(tmp_path / "dtd")
    system = build_system(config)
    found = pretrained.bring(config, system)
    assert found.facts["textures"]["file"] == "dtd"
    assert found.facts["textures"]["sha256"] == pretrained.digest(found.trees)
    batch = pretrained.example(config, system)
    state = initial_state(config, system, batch, found.trees)
    assert state.frozen["textures"].shape == (3, 64, 64, 3)


def test_a_population_writes_no_file(tmp_path):
    config = load("dsr:cpu")
    config.save_weights.dada = str(tmp_path / "dada.safetensors")
    with pytest.raises(ValueError, match="save_weights.dada: the members of a"):
        population.run_members([config], [tmp_path], tmp_path)


def test_what_a_file_brings_is_not_written_again(tmp_path):
    config = load("dsr:cpu")
    config.save_weights.dada = str(tmp_path / "dada.safetensors")
    refused(config, tmp_path, "save_weights.dada: no phase .*=shipped:dada_rgb_light")


@pytest.mark.slow
def test_a_single_phase_makes_the_file_that_stands_for_it(tmp_path):
    fields = {
        **TINY,
        "data.image_size": 64,
        "data.cache": str(tmp_path / "cache"),
        "data.procedural_images": 8,
        "model.dada_steps": 2,
        "model.steps": 2,
        "model.upsampler_steps": 2,
        "weights.dada": "",
        "save_weights.dada": str(tmp_path / "dada.safetensors"),
    }
    whole = ad.Experiment("dsr:cpu", workdir=tmp_path / "whole", set=fields).fit()
    made = weights.read(tmp_path / "dada.safetensors").sha256
    (tmp_path / "dada.safetensors").unlink()
    one = ad.Experiment("dsr:cpu", workdir=tmp_path / "one", set=fields)
    one.fit(phases=["dada"])
    assert weights.read(tmp_path / "dada.safetensors").sha256 == made
    with pytest.raises(ValueError, match="no fitted state"):
        one.evaluate()
    rest = {**fields, "save_weights.dada": ""}
    file = {"dada": str(tmp_path / "dada.safetensors")}
    run_of_rest = ad.Experiment(
        "dsr:cpu", weights=file, workdir=tmp_path / "rest", set=rest
    )
    two = run_of_rest.fit()
    jax.tree.map(np.testing.assert_array_equal, two.state, whole.state)
    assert run_of_rest.evaluate()["weights"]["dada"]["sha256"] == made
