"""Weights come in whole, from files that cannot carry code, or not at all."""

import collections
import hashlib
import io
import json
import os
import pickle
import stat
import zipfile
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ad3d_jax.features import weights
from ad3d_jax.features.safetensors_header import check_header

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
    with pytest.raises(ValueError, match="python tools/convert_torch.py model"):
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
    np.testing.assert_array_equal(weights.read(path)["w"], np.ones(2))


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
        (b"", "8 bytes"),
        (b"\0" * 7, "8 bytes"),
        (lying({"w": one()}, size=10**15), "header length of 1000000000000000"),
        (lying({"w": one()}, size=2**64 - 1), "header length"),
        (lying(b" " * (17 * 2**20)), "header length"),
        (lying({"w": one(offsets=(0, 32))}), "expected 16 bytes"),
        (
            lying({"w": one(shape=(8,), offsets=(0, 32))}),
            "expected 32 bytes of tensors",
        ),
        (
            lying({"w": one(shape=(3,), offsets=(0, 12))}),
            "expected 12 bytes of tensors",
        ),
        (lying({"w": one(offsets=(16, 0))}), "expected 16 bytes for"),
        (lying({"w": one(offsets=(-8, 8))}), "two whole numbers"),
        (lying({"w": one(offsets=(0, True))}), "two whole numbers"),
        (lying({"a": one(), "b": one()}), "'b': expected to begin at byte 16.*overlap"),
        (lying({"a": one(shape=(2,), offsets=(8, 16))}), "byte 0.*gap"),
        (lying({"w": one(shape=(2**62, 4))}), "expected 73786976294838206464 bytes"),
        (lying({"w": one(shape=(2.0, 2))}), "whole numbers as shape"),
        (lying({"w": one(dtype="O")}), "expected a dtype"),
        (lying({"w": one(dtype=["F32"])}), "expected a dtype"),
        (lying({"w": one() | {"more": 1}}), "expected dtype, shape"),
        (lying({"w": 3}), "expected dtype, shape"),
        (lying({"__metadata__": {"n": 1}, "w": one()}), "__metadata__"),
        (lying(b"[" * 100_000), "not JSON"),
        (lying(b"[]"), "JSON object"),
        (lying(b"\xff{}"), "not JSON"),
        (
            lying(b'{"w":%s,"w":%s}' % ((json.dumps(one()).encode(),) * 2)),
            r"a name twice: \['w'\]",
        ),
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
        assert set(found) == set(safetensors.numpy.load(path.read_bytes()))


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
        assert all(array.dtype.kind in "fiub" for array in found.values())


def damaged(data, whole):
    """Cuts the bytes short or overwrites a few of them."""
    if data.draw(st.booleans()):
        return whole[: data.draw(st.integers(0, len(whole)))]
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    return bytes(changed)


@FEW
@given(st.data())
def test_accepted_headers_agree_with_the_format(data):
    """A header that we accept is one that the reference reader accepts."""
    entries = data.draw(
        st.dictionaries(
            st.sampled_from(["a", "b", "c"]),
            st.builds(
                one,
                dtype=st.sampled_from(["F32", "U8", "I64"]),
                shape=st.lists(st.integers(0, 4), max_size=2),
                offsets=st.tuples(st.integers(0, 24), st.integers(0, 24)),
            ),
        )
    )
    raw = lying(entries, b"\0" * data.draw(st.sampled_from([0, 4, 8, 16, 24])))
    try:
        check_header(raw)
    except ValueError:
        return
    assert set(safetensors.numpy.load(raw)) == set(entries)


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
    with pytest.raises(OSError, match="No space"):
        weights.save(path, {"w": np.zeros(2)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_fingerprint_is_the_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights.fingerprint(path) == known
    path.write_bytes(bytes(3_000_000))
    assert weights.fingerprint(path) == hashlib.sha256(bytes(3_000_000)).hexdigest()


def test_ordered_mappings_keep_their_type(tmp_path):
    path = tmp_path / "model.safetensors"
    like = collections.OrderedDict(b=np.ones(2), a=np.zeros(3))
    weights.save(path, like)
    assert list(weights.load(path, like)) == ["b", "a"]
