"""Folders of npy files come in whole, or are refused before anything is read."""

import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ad3d_jax.features import npy_files, weights


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two arrays, beside the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "weights"
    folder.mkdir()
    np.save(folder / "layer1.0.conv1.weight.npy", np.arange(24.0).reshape(2, 3, 4))
    np.save(folder / "bias.npy", np.asfortranarray(np.ones((2, 3), np.float16)))
    return folder


def test_names_are_the_files_with_slashes(folder):
    found = weights.read(folder)
    assert set(found) == {"layer1/0/conv1/weight", "bias"}
    expected = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(found["layer1/0/conv1/weight"], expected)
    like = {
        "layer1": [{"conv1": {"weight": np.zeros((2, 3, 4), np.float32)}}],
        "bias": np.zeros((2, 3), np.float32),
    }
    loaded = weights.load(folder, like)
    assert loaded["layer1"][0]["conv1"]["weight"].dtype == np.float32
    with pytest.raises(ValueError, match="missing: more"):
        weights.load(folder, like | {"more": np.zeros(1)})


def test_links_folders_and_other_files_are_refused(folder):
    (folder / "link.npy").symlink_to(folder / "bias.npy")
    with pytest.raises(ValueError, match="link.npy: expected a plain file"):
        weights.read(folder)
    (folder / "link.npy").unlink()
    (folder / "inner.npy").mkdir()
    with pytest.raises(ValueError, match="inner.npy: expected a plain file"):
        weights.read(folder)
    (folder / "inner.npy").rmdir()
    os.mkfifo(folder / "pipe.npy")  # would wait for ever
    with pytest.raises(ValueError, match="pipe.npy: expected a plain file"):
        weights.read(folder)
    (folder / "pipe.npy").unlink()
    for name in ("model.pth", "notes.txt", "bias.npz"):
        (folder / name).write_bytes(b"")
        with pytest.raises(ValueError, match=f"weights: expected arrays.*'{name}'"):
            weights.read(folder)
        (folder / name).unlink()
    assert len(weights.read(folder)) == 2


def test_objects_and_pickles_are_refused(folder):
    np.save(folder / "a.npy", np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match="a.npy: expected numbers.*object"):
        weights.read(folder)
    (folder / "a.npy").write_bytes(pickle.dumps({"w": Trap()}))
    with pytest.raises(ValueError, match="a.npy: "):
        weights.read(folder)
    np.save(folder / "a.npy", np.array(["text"]))
    with pytest.raises(ValueError, match="a.npy: expected numbers"):
        weights.read(folder)
    assert not os.path.exists("sprung")


def test_sizes_are_checked(folder):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**3)}
    )
    (folder / "a.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="a.npy: expected 8000000000"):
        weights.read(folder)
    data = (folder / "bias.npy").read_bytes()
    (folder / "a.npy").write_bytes(data + b"\0")
    with pytest.raises(ValueError, match=r"a.npy: expected 140 bytes.*found 141"):
        weights.read(folder)


@pytest.mark.parametrize(
    "header", [b"(" * 9000, b"-" * 9000 + b"1", b"{[]: 1}", b"{1: 2, 'a': 3}", b" {\n"]
)
def test_headers_that_are_no_description_are_refused(folder, header):
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (folder / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match="weights: a.npy: "):
        weights.read(folder)


def test_number_of_files_is_bounded(folder, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: expected 1 to 10000 .npy files"):
        weights.read(tmp_path / "empty")
    monkeypatch.setattr(npy_files, "FILES_LIMIT", 1)
    with pytest.raises(ValueError, match="expected 1 to 1 .npy files, found 2"):
        weights.read(folder)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_damaged_files_are_read_right_or_refused(tmp_path, data):
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6, dtype=np.float32).reshape(2, 3))
    changed = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    (tmp_path / "w").mkdir(exist_ok=True)
    (tmp_path / "w" / "a.npy").write_bytes(changed[: data.draw(st.integers(0, 200))])
    try:
        found = weights.read(tmp_path / "w")
    except ValueError as error:
        assert str(tmp_path) in str(error)
    else:
        assert found["a"].dtype.kind in "fiub"
