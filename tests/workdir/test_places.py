"""Places on this machine, and those that are not on it."""

import os
from pathlib import Path

import pytest

from ad3d_jax.workdir.places import local, writable

ADDRESSES = ("gs://bucket/run", "s3://bucket/run", "http://host/x", "file:///tmp/x")


@pytest.mark.parametrize("place", [*ADDRESSES, Path("gs://bucket/run"), "S3://b"])
def test_an_address_is_refused(place):
    with pytest.raises(ValueError, match="^workdir: expected a path of this machine"):
        local(place, "workdir")


@pytest.mark.parametrize(
    "place", ["runs/a", "/a:b/c", "C:/runs", "a b", "shipped:name", "o/n@main:f", ""]
)
def test_a_path_is_kept(place):
    assert local(place, "x") == Path(place)


def test_home_is_found():
    assert local("~/runs", "x") == Path.home() / "runs"


def test_a_folder_is_made_and_nothing_is_left_in_it(tmp_path):
    assert writable(tmp_path / "a" / "b", "output") == tmp_path / "a" / "b"
    assert os.listdir(tmp_path / "a" / "b") == []


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "f").write_text("")
    for place in (tmp_path / "f", tmp_path / "f" / "deeper"):
        with pytest.raises(
            ValueError, match="output .*: expected a folder that can be"
        ):
            writable(place, "output")


def test_a_read_only_place_is_refused(tmp_path, monkeypatch):
    def refuses(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuses)
    with pytest.raises(ValueError, match="found: Read-only file system"):
        writable(tmp_path, "output")
