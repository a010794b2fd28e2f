"""Sets of weights with the same names and shapes are told apart, or are unknown."""

import hashlib
import json

import numpy as np
import pytest

from ad3d_jax.features import image, weights
from ad3d_jax.features.provenance import check_source, describe, provenance
from ad3d_jax.features.safetensors_header import read_metadata

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
def test_public_files_are_known_by_their_digest(tmp_path, digits, source):
    path = converted(tmp_path, digits and digits + "0" * 56)
    assert provenance(path) == source
    assert image.provenance(path) == source  # where callers look for it


def test_files_that_say_nothing_are_unknown(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.ones(2))
    weights.save(tmp_path / "plain.safetensors", {"w": np.ones(2)})
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "w.npy", np.ones(2))
    for name in ("w.npz", "plain.safetensors", "folder"):
        assert provenance(tmp_path / name) is None
        assert check_source(tmp_path / name, "racm_in1k") is None


def test_another_set_than_the_papers_is_refused(tmp_path):
    path = converted(tmp_path, V1)
    assert check_source(path, "tv_in1k") == "tv_in1k"
    assert check_source(path, "") == "tv_in1k"
    with pytest.raises(ValueError, match="expected the weights racm_in1k, found tv_in"):
        check_source(path, "racm_in1k")
    with pytest.raises(ValueError, match="w.safetensors: expected the weights tv_in1k"):
        check_source(converted(tmp_path, RACM), "tv_in1k")
    with pytest.raises(ValueError, match="backbone.source.*tv_in1k.*'imagenet'"):
        check_source(path, "imagenet")


def test_description(tmp_path):
    path = converted(tmp_path, RACM)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = {"file": "w.safetensors", "sha256": digest, "source": "racm_in1k"}
    assert describe(path) == expected


def test_fingerprint_of_a_folder_is_that_of_names_and_bytes(tmp_path):
    for name, data in (("b.npy", b"two"), ("a.npy", b"one")):
        (tmp_path / name).write_bytes(data)
    lines = [
        f"{name} {hashlib.sha256(data).hexdigest()}\n"
        for name, data in (("a.npy", b"one"), ("b.npy", b"two"))
    ]
    first = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert weights.fingerprint(tmp_path) == first
    (tmp_path / "b.npy").rename(tmp_path / "c.npy")
    assert weights.fingerprint(tmp_path) != first
    (tmp_path / "d.npy").symlink_to(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="d.npy: expected a plain file"):
        weights.fingerprint(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0" * 4, "8 bytes"),
        ((2**63).to_bytes(8, "little") + b"{}", "header length"),
        ((100).to_bytes(8, "little") + b"{}", "header length of 100"),
        ((2).to_bytes(8, "little") + b"[]", "JSON object"),
    ],
)
def test_metadata_of_lying_headers_are_refused(tmp_path, data, message):
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"w.safetensors: .*{message}"):
        read_metadata(path)


def test_metadata_are_read_without_the_tensors(tmp_path):
    header = json.dumps({"__metadata__": {"sha256": V1}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"cut short")
    assert read_metadata(path) == {"sha256": V1}
