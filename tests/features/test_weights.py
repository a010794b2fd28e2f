"""Weights come in whole, from files that cannot carry code, or not at all."""

import collections
import hashlib
import io
import json
import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ad3d_jax.features import weights

FEW = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Pair(NamedTuple):
    mean: np.ndarray
    count: np.ndarray


def tree():
    rng = np.random.default_rng(0)
    return {
        "conv": {"kernel": rng.random((3, 3, 2, 4), np.float32), "bias": np.zeros(4)},
        "norm": Pair(rng.random(4, np.float32), np.int32(7)),
        "codes": [np.arange(6, dtype=np.uint8).reshape(2, 3), np.array([True, False])],
    }


def names():
    return {
        *("conv/kernel", "conv/bias", "norm/mean", "norm/count"),
        *("codes/0", "codes/1"),
    }


def leaves(value):
    norm, codes = value["norm"], value["codes"]
    return [value["conv"]["kernel"], value["conv"]["bias"], *norm, *codes]


def lying(header, data=b"\0" * 16, size=None):
    """Bytes of a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def one(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def twice(first, second):
    """A header that declares one tensor two times."""
    return b'{"w":%s,"w":%s}' % tuple(json.dumps(x).encode() for x in (first, second))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_whole_tree_comes_back(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    if suffix == ".npz":
        flat = dict(zip(sorted_names(), leaves(tree()), strict=True))
        np.savez(path, **flat)
    else:
        weights.save(path, tree())
        assert set(safetensors.numpy.load_file(path)) == names()
    back = weights.load(path, tree())
    assert isinstance(back["norm"], Pair)
    for a, b in zip(leaves(back), leaves(tree()), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


def sorted_names():
    return ["conv/kernel", "conv/bias", "norm/mean", "norm/count", "codes/0", "codes/1"]


def test_views_with_other_strides_are_saved_as_they_read(tmp_path):
    path = tmp_path / "model.safetensors"
    array = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    weights.save(path, {"w": array.transpose(2, 0, 1)[::-1]}, {"source": "test"})
    found = safetensors.numpy.load_file(path)["w"]
    np.testing.assert_array_equal(found, array.transpose(2, 0, 1)[::-1])


def test_floats_take_the_wanted_type(tmp_path):
    path = tmp_path / "half.npz"
    np.savez(path, w=np.float16([1.5, 2.5]))
    back = weights.load(path, {"w": jnp.zeros(2, jnp.bfloat16)})
    assert back["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(back["w"].astype(np.float32), [1.5, 2.5])
    with pytest.raises(ValueError, match=r"w, expected int32 \[2\], found float16"):
        weights.load(path, {"w": jnp.zeros(2, jnp.int32)})


def test_every_difference_is_listed(tmp_path):
    path = tmp_path / "model.safetensors"
    weights.save(path, {"a": np.zeros(3), "b": np.zeros((2, 2)), "c": np.zeros(1)})
    like = {"a": np.zeros(4), "b": np.zeros((2, 2)), "d": np.zeros(1), "e": np.zeros(1)}
    with pytest.raises(ValueError) as caught:
        weights.load(path, like)
    text = str(caught.value)
    assert text.startswith(f"{path}: 4 of its weights")
    assert "missing: d\n" in text and "missing: e\n" in text
    assert "unexpected: c\n" in text
    assert "mismatched: a, expected float64 [4], found float64 [3]" in text
    assert "b" not in [line.split()[1] for line in text.splitlines()[1:]]


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pckl", ".pt", ".PTH", ".pickle"])
def test_pickles_are_refused_by_extension(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"harmless")
    with pytest.raises(ValueError, match="python -m experiments.convert_torch model"):
        weights.load(path, {})


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickles_are_refused_by_content(
    tmp_path, monkeypatch, suffix, protocol, zipped
):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"w": Trap()}, protocol=protocol)
    if zipped:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", data)
        data = buffer.getvalue()
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="pickled data.*convert_torch"):
        weights.load(path, {})
    assert not (tmp_path / "sprung").exists()


def test_header_that_begins_like_a_pickle_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    for width in range(700):
        weights.save(path, {"w": np.ones(2)}, {"text": "x" * width})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no header of 640 bytes was made")
    np.testing.assert_array_equal(weights.read(path).arrays["w"], np.ones(2))


def test_object_arrays_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.npz"
    np.savez(path, fine=np.zeros(2), w=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match="w.npy: expected numbers.*object"):
        weights.load(path, {"fine": np.zeros(2), "w": np.zeros(1)})
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header too small"),
        (b"\0" * 7, "header too small"),
        (lying({"w": one()}, size=10**15), "header too large"),
        (lying({"w": one()}, size=2**64 - 1), "header too large"),
        (lying(b" " * (17 * 2**20)), "invalid JSON in header"),
        (lying({"w": one(offsets=(0, 32))}), "invalid shape, data type, or offset"),
        (lying({"w": one(shape=(8,), offsets=(0, 32))}), "file not fully covered"),
        (lying({"w": one(shape=(3,), offsets=(0, 12))}), "file not fully covered"),
        (lying({"w": one(offsets=(16, 0))}), "invalid offset"),
        (lying({"w": one(offsets=(-8, 8))}), "invalid JSON in header"),
        (lying({"w": one(offsets=(0, True))}), "invalid JSON in header"),
        (lying({"a": one(), "b": one()}), "invalid offset"),
        (lying({"a": one(shape=(2,), offsets=(8, 16))}), "invalid offset"),
        (lying({"w": one(shape=(2**62, 4))}), "overflow"),
        (lying({"w": one(shape=(2.0, 2))}), "invalid JSON in header"),
        (lying({"w": one(dtype="O")}), "invalid JSON in header"),
        (lying({"w": one(dtype=["F32"])}), "invalid JSON in header"),
        (lying({"w": one("F8_E4M3", (16,))}), "expected a dtype"),
        (lying({"w": 3}), "invalid JSON in header"),
        (lying({"__metadata__": {"n": 1}, "w": one()}), "invalid JSON in header"),
        (lying(b"[" * 100_000), "invalid JSON in header"),
        (lying(b"[]"), "invalid JSON in header"),
        (lying(b"\xff{}"), "invalid UTF-8"),
        # The library takes the last of two entries, where that one fits.
        (lying(twice(one(), one())), r"a name twice: \['w'\]"),
        (lying(twice(one(), one(shape=(2, 2)))), r"a name twice: \['w'\]"),
        (lying(twice(one(dtype="I32"), one())), r"a name twice: \['w'\]"),
        (lying(twice(one(), one(offsets=(0, 8)))), "invalid shape, data type"),
    ],
)
def test_lying_headers_are_refused(tmp_path, data, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        weights.load(path, {"w": np.zeros(4)})
    assert str(path) in str(caught.value)


@FEW
@given(st.data())
def test_damaged_safetensors_are_read_right_or_refused(tmp_path, data):
    whole = safetensors.numpy.save(
        {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 3), np.int16)}
    )
    path = tmp_path / "model.safetensors"
    path.write_bytes(damaged(data, whole))
    try:
        found = weights.read(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:  # whatever passes, the format's own reader takes, too
        assert set(found.arrays) == set(safetensors.numpy.load(path.read_bytes()))


@FEW
@given(st.data())
def test_damaged_npz_are_read_right_or_refused(tmp_path, data):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(4.0), b=np.ones((2, 3), np.int16))
    path = tmp_path / "model.npz"
    path.write_bytes(damaged(data, buffer.getvalue()))
    try:
        found = weights.read(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert all(array.dtype.kind in "fiub" for array in found.arrays.values())


def damaged(data, whole):
    """Cuts the bytes short or overwrites a few of them."""
    if data.draw(st.booleans()):
        return whole[: data.draw(st.integers(0, len(whole)))]
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    return bytes(changed)


def test_npz_that_claims_more_than_it_holds(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**3)}
    )
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", buffer.getvalue())
    with pytest.raises(ValueError, match="w.npy: expected 8000000000"):
        weights.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no array")
    with pytest.raises(ValueError, match="arrays as .npy alone, found 'notes.txt'"):
        weights.read(path)


def test_damaged_archive_names_the_file(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, w=np.zeros(2))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 64  # asks for a later zip version
    path.write_bytes(data)
    with pytest.raises(ValueError, match="model.npz: expected an npz archive"):
        weights.read(path)


def test_other_formats_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        weights.load(tmp_path / "none.npz", {})
    (tmp_path / "model.h5").write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match="or .npz file, found a folder"):
        weights.load(tmp_path, {})
    with pytest.raises(ValueError, match="found '.h5'"):
        weights.load(tmp_path / "model.h5", {})
    with pytest.raises(ValueError, match="ends in .safetensors"):
        weights.save(tmp_path / "model.npz", {})
    with pytest.raises(ValueError, match="same name"):
        weights.save(tmp_path / "m.safetensors", {"a/b": 1.0, "a": {"b": 2.0}})
    assert os.listdir(tmp_path) == ["model.h5"]


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    weights.save(path, {"w": np.ones(2)})
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="no space is left"):
        weights.save(path, {"w": np.zeros(2)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_file_is_read_once_and_hashed(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    np.savez(path, w=np.ones(2))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    opened = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: opened.append(self) or read_bytes(self)
    )
    file = weights.read(path)
    assert (file.path, file.sha256, dict(file.metadata)) == (path, digest, {})
    path.unlink()
    assert weights.read(file) is file
    np.testing.assert_array_equal(weights.load(file, {"w": np.ones(2)})["w"], 1.0)
    assert os.fspath(file) == str(path) and opened == [path]


def test_metadata_are_read(tmp_path):
    path = tmp_path / "model.safetensors"
    weights.save(path, {"w": np.ones(2)}, {"source": "test"})
    assert weights.read(path).metadata == {"source": "test"}
    weights.save(path, {"w": np.ones(2)})
    assert weights.read(path).metadata == {}


def test_prefix_of_names_is_left_out_where_it_is_not_the_trees(tmp_path, caplog):
    path = tmp_path / "model.safetensors"
    weights.save(path, {"module": {"net": {"w": np.ones(2)}}})
    for like in ({"net": {"w": np.ones(2)}}, {"module": {"net": {"w": np.ones(2)}}}):
        back = weights.load(path, like)
        assert list(back) == list(like)
    told = "model.safetensors: all names begin with module/, which is left out"
    assert caplog.text.count("left out") == caplog.text.count(told) == 1


def test_ordered_mappings_keep_their_type(tmp_path):
    path = tmp_path / "model.safetensors"
    like = collections.OrderedDict(b=np.ones(2), a=np.zeros(3))
    weights.save(path, like)
    assert list(weights.load(path, like)) == ["b", "a"]


def test_an_archive_that_unfolds_to_a_hundred_times_its_size_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", zeros=np.zeros(2**27, np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"bomb\.npz: expected at most .* found 1342"):
        weights.read(tmp_path / "bomb.npz")
    np.savez_compressed(tmp_path / "zeros.npz", zeros=np.zeros(2**20, np.uint8))
    assert weights.read(tmp_path / "zeros.npz").arrays["zeros"].size == 2**20


def test_what_is_no_plain_file_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match=r"pipe\.npz: expected a file"):
        weights.read(tmp_path / "pipe.npz")
