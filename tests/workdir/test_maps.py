import zipfile

import numpy as np
import pytest
from disturbed import small_files

from ad3d_jax.workdir import arrays, maps
from ad3d_jax.workdir.disk import DiskFullError
from ad3d_jax.workdir.names import sample_name
from ad3d_jax.workdir.scores import Row
from ad3d_jax.workdir.unreadable import UnreadableError

ROWS = [Row("bun", "good", "000", 7, 0), Row("bun", "a hole", "0_1", 8, 1)]
MAPS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
MASKS = MAPS % 2 == 0


def test_names_are_one_for_each_sample_and_fit_into_any_file_system():
    assert sample_name("good", "000") == "good_000"
    assert sample_name("a/b c", "ü_1") == "a%2fb%20c_ü%5f1"
    assert sample_name("a_b", "c") != sample_name("a", "b_c")


def test_maps_come_back_by_row(tmp_path):
    maps.write_maps(tmp_path / "maps", ROWS, MAPS, MASKS)
    files = [path.name for path in maps.files(tmp_path / "maps")]
    assert files == ["a%20hole_0%5f1.npz", "good_000.npz"]
    for row, map, mask in zip(ROWS, MAPS, MASKS, strict=True):
        found = maps.read_map(tmp_path / "maps", row)
        np.testing.assert_array_equal(found[0], map)
        np.testing.assert_array_equal(found[1], mask)
        assert [x.dtype for x in found] == [np.float32, bool]


def test_an_earlier_scoring_leaves_nothing(tmp_path):
    maps.write_samples(tmp_path / "maps" / "samples", {"old": {"x": MAPS}})
    maps.write_maps(tmp_path / "maps", ROWS, MAPS, MASKS)
    maps.write_maps(tmp_path / "maps", ROWS[:1], MAPS[:1], MASKS[:1])
    assert [x.name for x in (tmp_path / "maps").iterdir()] == ["good_000.npz"]


def test_maps_are_all_there_or_none_is(tmp_path):
    noise = np.random.default_rng(0).random((2, 64, 64), np.float32)
    noise[0] = 0  # the first file is small
    maps.write_maps(tmp_path / "maps", ROWS, noise, noise > 0)
    with small_files(4096):
        with pytest.raises(DiskFullError, match="hole_0%5f1.npz: no space is left"):
            maps.write_maps(tmp_path / "maps", ROWS, noise, noise > 0)
    assert maps.files(tmp_path / "maps") == []
    maps.write_maps(tmp_path / "maps", ROWS, noise, noise > 0)
    assert len(maps.files(tmp_path / "maps")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]


def test_samples_are_kept_by_name(tmp_path):
    maps.write_samples(tmp_path, {"a": {"part/x": MAPS, "rgb": MASKS}, "b": {}})
    assert [path.stem for path in maps.files(tmp_path)] == ["a", "b"]
    found = arrays.read_arrays(maps.files(tmp_path)[0])
    assert found.keys() == {"part/x", "rgb"}
    np.testing.assert_array_equal(found["part/x"], MAPS)
    assert maps.files(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"map": MAPS[0]}, "there is no 'mask' in it"),
        ({"map": MAPS, "mask": MASKS}, r"expected \[H,W\], found \(2, 3, 4\)"),
        ({"map": np.array([["text"]]), "mask": MASKS[0]}, "could not convert"),
        ({"map": np.array([[{}]]), "mask": MASKS[0]}, "Object arrays cannot be"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, content, reason):
    np.savez(tmp_path / "good_000.npz", **content)
    with pytest.raises(UnreadableError, match=f"good_000.npz: {reason}"):
        maps.read_map(tmp_path, ROWS[0])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"text"])
def test_a_damaged_file_is_named(tmp_path, content):
    with pytest.raises(UnreadableError, match="npz: there is no such file"):
        maps.read_map(tmp_path, ROWS[0])
    (tmp_path / "good_000.npz").write_bytes(content)
    with pytest.raises(UnreadableError, match="good_000.npz: "):
        maps.read_map(tmp_path, ROWS[0])


def test_arrays_that_claim_more_than_there_is_memory_for_are_named(tmp_path):
    form = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**20)}
    with zipfile.ZipFile(tmp_path / "good_000.npz", "w") as archive:
        for name in ("map.npy", "mask.npy"):
            with archive.open(name, "w") as file:
                np.lib.format.write_array_header_1_0(file, form)
    with pytest.raises(UnreadableError, match="good_000.npz: "):
        maps.read_map(tmp_path, ROWS[0])


def test_a_flipped_bit_is_found(tmp_path):
    arrays.write_arrays(tmp_path / "a.npz", {"x": MAPS})
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(b"x.npy") + 40] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UnreadableError, match="a.npz: "):
        arrays.read_arrays(tmp_path / "a.npz")
