"""The converter, with torch where it is installed and with its absence told."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
from oracles.torch_models import import_networks

from ad3d_jax.features import known, provenance, weights
from ad3d_jax.features.extractors import extractor
from experiments import convert_torch

SCRIPT = Path(convert_torch.__file__)


@pytest.fixture
def torch():
    """The torch module, or a skip."""
    return pytest.importorskip("torch")


def test_absence_of_torch_is_one_sentence(tmp_path, monkeypatch):
    source = tmp_path / "model.pth"
    source.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="needs torch, which is not installed"):
        convert_torch.main([str(source), str(tmp_path / "model.safetensors")])
    assert not (tmp_path / "model.safetensors").exists()


def test_old_torch_is_refused(tmp_path, monkeypatch):
    source = tmp_path / "model.pth"
    source.write_bytes(b"anything")

    class Old:
        __version__ = "2.9.1+cpu"

    monkeypatch.setitem(sys.modules, "torch", Old)
    with pytest.raises(SystemExit, match="expected torch 2.10 or later, found 2.9.1"):
        convert_torch.main([str(source), str(tmp_path / "model.safetensors")])


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("none.pth", "out.safetensors", "there is no such file"),
        ("none.pth", "out.npz", "ends in .safetensors"),
    ],
)
def test_wrong_paths_are_told(tmp_path, source, target, message):
    command = [sys.executable, SCRIPT, tmp_path / source, tmp_path / target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_state_dict_is_converted(torch, tmp_path, capsys):
    source, target = tmp_path / "model.pth", tmp_path / "model.safetensors"
    kernel = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)
    state = {
        "layer1.0.weight": kernel,
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "count": torch.tensor(7),
    }
    torch.save({"state_dict": state, "epoch": 3}, source)
    with pytest.raises(ValueError, match="convert_torch model.pth model.safetensors"):
        weights.read(source)
    convert_torch.main([str(source), str(target)])
    assert "left out, not tensors: epoch" in capsys.readouterr().out
    found = weights.read(target).arrays
    assert set(found) == {
        "state_dict/layer1/0/weight",
        "state_dict/half",
        "state_dict/count",
    }
    np.testing.assert_array_equal(found["state_dict/layer1/0/weight"], kernel.numpy())
    assert found["state_dict/half"].dtype == np.float32
    assert found["state_dict/count"].shape == ()
    with safetensors.safe_open(target, framework="np") as file:
        metadata = file.metadata()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert metadata == {"source": "model.pth", "sha256": digest}


@pytest.mark.slow
def test_code_in_the_source_is_not_run(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "model.pth"

    class Trap:
        def __reduce__(self):
            return Path.mkdir, (Path("sprung"),)

    with open(source, "wb") as file:
        pickle.dump({"w": Trap()}, file, protocol=2)
    with pytest.raises(SystemExit, match="expected tensors alone"):
        convert_torch.main([str(source), "model.safetensors"])
    assert not Path("sprung").exists()
    assert not Path("model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
def test_backbone_goes_from_torch_to_here(tmp_path, monkeypatch, legacy):
    """As a user does it; old releases of torch wrote files that are no zip archives."""
    torch, torchvision, _ = import_networks()
    source, target = tmp_path / "resnet18.pth", tmp_path / "resnet18.safetensors"
    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), source, _use_new_zipfile_serialization=not legacy)
    convert_torch.main([str(source), str(target)])
    resnet18 = extractor("resnet18")
    like = jax.eval_shape(lambda key: resnet18.init(key, "layer3"), jax.random.key(0))
    params = resnet18.read(target, like)
    kernel = network.layer2[0].downsample[0].weight.detach().numpy()[:, :, 0, 0].T
    np.testing.assert_allclose(
        params["layer2_0"]["downsample"]["kernel"][0, 0],
        kernel / np.sqrt(1 + 1e-5),
        rtol=1e-6,
    )
    assert provenance.provenance(target) is None
    digits = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(known.KNOWN, "a/b", known.Known("tv_in1k", torch=(digits,)))
    assert provenance.check_source(target, ("tv_in1k",)) == "tv_in1k"
