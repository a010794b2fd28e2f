"""Sets of weights with the same names and shapes are told apart, or are unknown."""

import hashlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.features import known, weights
from ad3d_jax.features.known import KNOWN, Known
from ad3d_jax.features.provenance import check_source, describe, digest, provenance

V1 = "95faca4d" + "0" * 56  # wide_resnet50_2-95faca4d.pth
RACM = "8234f177" + "f" * 56  # wide_resnet50_racm-8234f177.pth


def converted(folder, digest, name="w.safetensors"):
    path = folder / name
    weights.save(path, {"w": np.ones(2)}, {"source": "model.pth", "sha256": digest})
    return path


@pytest.mark.parametrize(
    ("digits", "source"),
    [
        ("95faca4d", "tv_in1k"),
        ("9ba9bcbe", "tv2_in1k"),
        ("8234f177", "racm_in1k"),
        ("f37072fd", "tv_in1k"),
        ("5c106cde", "tv_in1k"),
        ("d63eafa0", "a1_in1k"),
        ("0676ba61", "tv_in1k"),
        ("19c8e357", "tv_in1k"),
        ("11ad3fa6", "tv2_in1k"),
        ("14fe96d1", "a1_in1k"),
        ("00000000", None),
        ("", None),
    ],
)
def test_public_files_are_known_by_the_torch_files_digest(tmp_path, digits, source):
    path = converted(tmp_path, digits and digits + "0" * 56)
    assert provenance(path) == source


def test_digests_of_the_table_are_well_formed_and_of_one_set_each():
    digests = [d for k in KNOWN.values() for d in (k.sha256, *k.tensors) if d]
    digits = [d for k in KNOWN.values() for d in k.torch]
    assert all(re.fullmatch("[0-9a-f]{64}", d) for d in digests)
    assert all(re.fullmatch("[0-9a-f]{8}", d) for d in digits)
    assert len({*digests, *digits}) == len(digests) + len(digits) > 20
    for name, row in KNOWN.items():
        assert name.endswith(f".{row.source}")
        assert re.fullmatch("[0-9a-f]{40}" if row.sha256 else "main", row.revision)


def test_a_file_of_the_hub_is_known_by_its_own_digest(tmp_path, monkeypatch):
    weights.save(tmp_path / "a.safetensors", {"w": np.ones(2)})
    weights.save(tmp_path / "b.safetensors", {"w": np.zeros(2)})
    sha256 = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    monkeypatch.setitem(KNOWN, "timm/a.gluon_in1k", Known("gluon_in1k", sha256=sha256))
    assert provenance(tmp_path / "a.safetensors") == "gluon_in1k"
    assert provenance(tmp_path / "b.safetensors") is None


def test_tensors_are_known_whatever_carries_them(tmp_path, monkeypatch):
    tensors = {"a.w": np.arange(6, dtype=np.float32).reshape(2, 3), "a.n": np.int64(3)}
    monkeypatch.setitem(KNOWN, "a/b", Known("am_in1k", tensors=(digest(tensors),)))
    np.savez(tmp_path / "w.npz", **tensors)
    nested = {"a": {"n": tensors["a.n"], "w": tensors["a.w"]}}
    weights.save(tmp_path / "w.safetensors", nested)
    assert provenance(tmp_path / "w.npz") == "am_in1k"
    assert provenance(tmp_path / "w.safetensors") == "am_in1k"


def test_digest_is_that_of_the_written_out_lines():
    tensors = {"b": np.float32([1.0]), "a/x": np.zeros((1, 2), jnp.bfloat16)}
    written = b"a.x bfloat16 [1, 2]\n\0\0\0\0" + b"b float32 [1]\n\0\0\x80\x3f"
    assert digest(tensors) == hashlib.sha256(written).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.float32([1, 2, 3, 5])},
        {"b": np.float32([1, 2, 3, 4])},
        {"a": np.float32([[1, 2], [3, 4]])},
        {"a": np.float32([1, 2, 3, 4]).view(np.int32)},
        {"a": np.float32([1, 2, 3, 4]), "b": np.float32([])},
    ],
)
def test_other_values_names_shapes_and_dtypes_have_another_digest(other):
    assert digest(other) != digest({"a": np.float32([1, 2, 3, 4])})


def test_the_shared_network_is_torchvisions(resnet18_file):
    assert provenance(resnet18_file) == "tv_in1k"
    assert check_source(resnet18_file, ("tv_in1k",)) == "tv_in1k"
    with pytest.raises(ValueError, match="expected the weights a1_in1k, found tv_in1k"):
        check_source(resnet18_file, ("a1_in1k",))


def test_files_that_say_nothing_are_unknown(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.ones(2))
    weights.save(tmp_path / "plain.safetensors", {"w": np.ones(2)})
    for name in ("w.npz", "plain.safetensors"):
        assert provenance(tmp_path / name) is None
        assert check_source(tmp_path / name, ("racm_in1k",)) is None


def test_another_set_than_the_papers_is_refused(tmp_path):
    path = converted(tmp_path, V1)
    assert check_source(path, ("tv_in1k",)) == "tv_in1k"
    assert check_source(path, ("racm_in1k", "tv_in1k")) == "tv_in1k"
    assert check_source(path, ()) == "tv_in1k"
    with pytest.raises(ValueError, match="expected the weights racm_in1k, found tv_in"):
        check_source(path, ("racm_in1k",))
    with pytest.raises(ValueError, match="w.safetensors: expected the weights tv_in1k"):
        check_source(converted(tmp_path, RACM), ("tv_in1k",))
    with pytest.raises(ValueError, match="model.source.*tv_in1k.*'imagenet'"):
        check_source(path, ("imagenet",))
    assert "tv_in1k" in known.SOURCES and len(known.SOURCES) == len({*known.SOURCES})


def test_description(tmp_path):
    path = converted(tmp_path, RACM)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = {"file": "w.safetensors", "sha256": sha256, "source": "racm_in1k"}
    assert describe(path) == expected
    file = weights.read(path)._replace(name="timm/some@main")
    assert describe(file) == expected | {"file": "timm/some@main"}
