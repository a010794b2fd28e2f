import os
import stat
import subprocess
import sys
import threading

import pytest

from ad3d_jax.workdir import atomic
from ad3d_jax.workdir.disk import DiskFullError


def test_a_file_is_there_only_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with atomic.open_whole(path) as file:
        file.write(b"half")
        assert not path.exists()
        assert path.parent == tmp_path and len(list(tmp_path.iterdir())) == 1
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space"), KeyboardInterrupt()])
def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    atomic.write_text(path, "first")
    with pytest.raises((OSError, KeyboardInterrupt)):
        with atomic.open_whole(path) as file:
            file.write(b"second")
            raise error
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_at_the_end_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write_text(path, "first")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=f"^{path}: no space is left"):
        atomic.write_text(path, "second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic.write_bytes(tmp_path / "absent" / "file", b"")


def test_a_file_has_the_rights_of_any_other(tmp_path):
    atomic.write_bytes(tmp_path / "file", b"")
    (tmp_path / "other").write_bytes(b"")
    rights = [stat.S_IMODE((tmp_path / x).stat().st_mode) for x in ("file", "other")]
    assert rights[0] == rights[1]


def test_a_name_may_be_as_long_as_a_name_can_be(tmp_path):
    path = tmp_path / ("x" * 255)
    atomic.write_text(path, "ü")
    assert path.read_text("utf-8") == "ü"


def test_two_writers_of_one_path_do_not_touch_each_other_s_file(tmp_path):
    path = tmp_path / "file"
    with atomic.open_whole(path) as one:
        with atomic.open_whole(path) as other:
            other.write(b"other")
        assert path.read_bytes() == b"other"
        one.write(b"one")
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


def test_threads_and_processes_that_write_one_path_leave_one_of_them_whole(tmp_path):
    path, size = tmp_path / "file", 200_000

    def write(letter):
        for _ in range(20):
            atomic.write_bytes(path, letter * size)

    program = (
        "import sys; from ad3d_jax.workdir import atomic\n"
        "for _ in range(20): atomic.write_bytes(sys.argv[1], b'p' * 200_000)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(path)])
    threads = [threading.Thread(target=write, args=(x,)) for x in (b"a", b"b")]
    for thread in threads:
        thread.start()
    seen = set()
    while child.poll() is None or any(thread.is_alive() for thread in threads):
        content = path.read_bytes() if path.exists() else b"a" * size
        assert len(content) == size and len(set(content)) == 1
        seen.add(content[:1])
    assert child.wait() == 0 and list(tmp_path.iterdir()) == [path]
    assert seen <= {b"a", b"b", b"p"} and b"p" in seen


def test_a_folder_takes_its_place_when_all_is_written(tmp_path):
    folder = tmp_path / "folder"
    for text in ("first", "second"):
        with atomic.new_folder(folder) as new:
            atomic.write_text(new / text, text)
            assert not (folder / text).exists()
        assert [path.name for path in folder.iterdir()] == [text]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("error", [OSError(28, "No space"), KeyboardInterrupt()])
def test_a_failure_leaves_the_earlier_folder_and_nothing_else(tmp_path, error):
    folder = tmp_path / "folder"
    with atomic.new_folder(folder) as new:
        atomic.write_text(new / "file", "first")
    with pytest.raises((OSError, KeyboardInterrupt)):
        with atomic.new_folder(folder) as new:
            atomic.write_text(new / "file", "second")
            raise error
    assert (folder / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [folder]
