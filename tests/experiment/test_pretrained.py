"""What the commands do with --config.backbone.weights before any work begins."""

import jax
import numpy as np
import pytest

from ad3d_jax.experiment import pretrained, run
from ad3d_jax.features import weights
from ad3d_jax.features.extractors import init_backbone
from ad3d_jax.features.known import KNOWN
from experiments.configs import btf, dbrn, patchcore


@pytest.fixture
def config(tmp_path):
    config = patchcore.get_config("cpu")
    config.data.cache = str(tmp_path / "cache")
    return config


def save(path, name="resnet18", last_layer="layer3", **metadata):
    tree = jax.tree.map(np.asarray, init_backbone(jax.random.key(0), name, last_layer))
    weights.save(path, tree, metadata)
    return str(path)


def refused(config, tmp_path, words):
    """Asserts that the command ends with these words and has prepared nothing."""
    with pytest.raises(ValueError, match=words):
        run.run(config, str(tmp_path / "run"), "fit")
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


def test_without_a_file_the_weights_are_said_to_be_random(config, caplog):
    pretrained.check(config)
    assert "RANDOM WEIGHTS: the resnet18" in caplog.text
    assert pretrained.describe(config) == "random"
    assert pretrained.describe(dbrn.get_config()) is None


def test_a_file_is_named_with_its_digest(config, tmp_path, caplog):
    config.backbone.weights = save(tmp_path / "w.safetensors")
    pretrained.check(config)
    assert "w.safetensors: whose weights these are is not known" in caplog.text
    digest = weights.read(tmp_path / "w.safetensors").sha256
    expected = {"file": "w.safetensors", "sha256": digest, "source": None}
    assert pretrained.describe(config) == expected


def test_another_known_set_is_refused(config, tmp_path):
    (digest,) = KNOWN["timm/resnet18.a1_in1k"].torch
    path = save(tmp_path / "w.safetensors", source="r.pth", sha256=digest + "0" * 56)
    config.backbone.weights = path
    refused(config, tmp_path, "a1_in1k")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "resnet50"}, "not of resnet18"),
        ({"last_layer": "layer2"}, "missing: "),
    ],
)
def test_what_does_not_fit_is_refused(config, tmp_path, change, words):
    config.backbone.weights = save(tmp_path / "w.safetensors", **change)
    refused(config, tmp_path, words)


def test_a_torch_file_is_refused(config, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02.")
    config.backbone.weights = str(tmp_path / "w.pth")
    refused(config, tmp_path, r"tools/convert_torch.py w.pth w.safetensors")


def test_features_without_a_network_take_no_weights(tmp_path):
    config = btf.get_config("fpfh")
    config.data.cache = str(tmp_path / "cache")
    assert pretrained.describe(config) is None
    config.backbone.weights = save(tmp_path / "w.safetensors")
    refused(config, tmp_path, r"btf \(fpfh\) has no backbone")


def test_a_shipped_artifact_that_is_not_there_is_refused():
    config = dbrn.get_config()
    config.artifacts = {"dada": "shipped:dada_of_nobody"}
    with pytest.raises(ValueError, match="artifacts.dada: no 'shipped:dada_of_nobody'"):
        pretrained.check(config)


def test_an_artifact_is_checked_before_any_work(tmp_path):
    config = dbrn.get_config()
    config.artifacts = {"dada": str(tmp_path / "dada.safetensors")}
    with pytest.raises(ValueError, match="artifacts.dada: no such file"):
        pretrained.check(config)
    (tmp_path / "dada.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="dada.safetensors"):
        pretrained.check(config)
    weights.save(tmp_path / "dada.safetensors", {"a": np.zeros(3, np.float32)})
    pretrained.check(config)
    assert pretrained.describe(config)["file"] == "dada.safetensors"
