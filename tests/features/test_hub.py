"""Weights by name, against a small hub on the loopback; its faults are one sentence."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles.small_hub import COMMIT, small_hub

from ad3d_jax.features import hub, weights
from ad3d_jax.features.known import KNOWN, Known
from ad3d_jax.features.locate import bring, locate

NAME = "timm/small.tv_in1k"
FIELD = "weights.backbone"


@pytest.fixture
def content(tmp_path):
    """The bytes of a file of weights."""
    weights.save(tmp_path / "w.safetensors", {"w": np.arange(5000.0)})
    return (tmp_path / "w.safetensors").read_bytes()


@pytest.fixture
def served(tmp_path, monkeypatch, content):
    """A hub with one repository, and this process as its client with an empty cache."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    with small_hub() as small:
        small.files[NAME, "model.safetensors"] = content
        template = f"{small.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in {
            "ENDPOINT": small.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        # It waits for a better network between its tries.
        for module in (file_download, _http):
            monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield small


def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refused(value, *words):
    """Asserts that a name ends in one sentence that holds the words; returns it."""
    with pytest.raises(ValueError) as caught:
        bring(value, FIELD)
    text = str(caught.value)
    assert text.startswith(f"{FIELD}: ") and "\n" not in text
    for word in words:
        assert word in text
    return text


def kept(folder: Path) -> list[Path]:
    """Returns the weights in a cache, whole or not."""
    return [path for path in folder.rglob("blobs/*") if path.is_file()]


@pytest.mark.parametrize(
    ("value", "repository", "revision", "file"),
    [
        ("a/b", "a/b", "main", "model.safetensors"),
        ("a/b.c-d_1@v1.0", "a/b.c-d_1", "v1.0", "model.safetensors"),
        ("a/b:sub/x.safetensors", "a/b", "main", "sub/x.safetensors"),
        ("a/b@refs/pr/1:x.safetensors", "a/b", "refs/pr/1", "x.safetensors"),
        (
            "timm/resnet18.tv_in1k",
            "timm/resnet18.tv_in1k",
            "bbd144b3e5565108aad885f145491d11bc6ce807",
            "model.safetensors",
        ),
        (
            "timm/resnet18.tv_in1k@main",
            "timm/resnet18.tv_in1k",
            "main",
            "model.safetensors",
        ),
    ],
)
def test_names_have_a_revision_and_a_file(value, repository, revision, file):
    assert hub.parse(value) == (repository, revision, file)
    assert hub.parse(str(hub.parse(value))) == hub.parse(value)


@pytest.mark.parametrize(
    "value", ["", "a", "/a/b", "./a", "a/b/c", "../a", "a/b@", "a/b:", "a b/c", "C:\\a"]
)
def test_other_values_are_no_names(value):
    assert hub.parse(value) is None


def test_download_is_checked_and_cached(served, content, monkeypatch, caplog):
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(KNOWN, NAME, Known("tv_in1k", COMMIT, sha256))
    file = bring(NAME, FIELD)
    np.testing.assert_array_equal(file.arrays["w"], np.arange(5000.0))
    assert file.sha256 == sha256 and file.name == f"{NAME}@{COMMIT}"
    assert "digest" not in caplog.text
    path = f"/{NAME}/resolve/{COMMIT}/model.safetensors"
    assert served.asked == [f"HEAD {path}", f"GET {path}"]
    offline(monkeypatch)
    again = bring(NAME, FIELD)
    assert (again.path, again.sha256) == (file.path, file.sha256)
    assert locate(NAME, FIELD) == file.path
    assert len(served.asked) == 2


def test_unknown_digest_is_told_once_with_what_was_found(served, content, caplog):
    file = bring(NAME, FIELD)
    assert file.name == f"{NAME}@main"
    sha256 = hashlib.sha256(content).hexdigest()
    assert caplog.text.count("not known here") == 1
    assert f"found the SHA-256 {sha256} at commit {COMMIT}" in caplog.text


def test_another_revision_of_a_known_name_is_told(served, monkeypatch, caplog):
    monkeypatch.setitem(KNOWN, NAME, Known("tv_in1k", COMMIT, "0" * 64))
    bring(f"{NAME}@main", FIELD)
    assert caplog.text.count("not known here") == 1


def test_another_file_of_a_repository(served, content, caplog):
    served.files[NAME, "sub/other.safetensors"] = content
    file = bring(f"{NAME}:sub/other.safetensors", FIELD)
    assert file.name == f"{NAME}@main:sub/other.safetensors"
    assert f"at commit {COMMIT}" in caplog.text


def test_wrong_digest_is_refused(served, content, monkeypatch):
    monkeypatch.setitem(KNOWN, NAME, Known("tv_in1k", COMMIT, "0" * 64))
    found = hashlib.sha256(content).hexdigest()
    refused(NAME, "expected", "0" * 64, f"found {found}", "remove", "model.safetensors")


@pytest.mark.parametrize("fault", ["short", "broken"])
def test_cut_download_is_told_and_not_kept(served, tmp_path, fault):
    setattr(served, fault, True)
    text = refused(NAME, "could not be fetched", "nothing of it was kept: start again")
    url = f"{served.url}/{NAME}/resolve/main/model.safetensors"
    assert f"bring {url} and name it by --config.{FIELD}=FILE" in text
    assert kept(tmp_path / "cache") == []
    setattr(served, fault, False)
    assert bring(NAME, FIELD).arrays["w"].shape == (5000,)


def test_names_that_do_not_exist(served):
    refused("timm/nobody", "timm/nobody is no file or folder here and no repository")
    refused(f"{NAME}@v9", "has no revision 'v9'", f"--config.{FIELD}={NAME}@REVISION")
    refused(
        f"{NAME}:x.safetensors", "holds no x.safetensors", "experiments.convert_torch"
    )


def test_repository_without_safetensors_is_refused(served):
    """A pickle is not even asked for."""
    served.files["a/old", "pytorch_model.bin"] = b"\x80\x02."
    refused("a/old", "a/old holds no model.safetensors", "may run code")
    refused("a/old:pytorch_model.bin", "expected a .safetensors file", "may run code")
    assert not any("pytorch_model" in asked for asked in served.asked)


def test_login_is_told(served):
    served.error = "GatedRepo"
    refused(NAME, "asks for a login", "hf auth login")


def test_offline_without_the_file(served, monkeypatch):
    offline(monkeypatch)
    text = refused(NAME, "is not in", "HF_HUB_OFFLINE is set", "bring http")
    assert text.endswith(f"name it by --config.{FIELD}=FILE")
    assert served.asked == []


def test_no_network(served, monkeypatch):
    from huggingface_hub import constants

    url = "http://127.0.0.1:9"  # the port of "discard", where nobody listens
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    refused(NAME, f"{url} cannot be reached: bring {url}/{NAME}/resolve/main/model")


def test_full_disk(served, tmp_path, monkeypatch):
    from huggingface_hub import file_download

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    refused(NAME, f"no space is left in {tmp_path / 'cache'}", "HF_HUB_CACHE", "bring")
    assert kept(tmp_path / "cache") == []


CLIENT = """
import sys
from ad3d_jax.features.locate import bring
for module in ("huggingface_hub", "torch"):
    assert module not in sys.modules, module
print(bring(sys.argv[1]).sha256)
"""


def test_the_hubs_variables_hold(tmp_path, content):
    """In a process of its own: HF_ENDPOINT and HF_HOME, then the cache alone."""
    with small_hub() as small:
        small.files[NAME, "model.safetensors"] = content
        environment = {"HF_ENDPOINT": small.url, "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", CLIENT, NAME]
        outputs = []
        for more in ({}, {"HF_HUB_OFFLINE": "1"}):
            done = subprocess.run(
                command,
                env=os.environ | environment | more,
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            outputs.append(done.stdout.strip())
    assert outputs == [hashlib.sha256(content).hexdigest()] * 2
    assert len(small.asked) == 2
