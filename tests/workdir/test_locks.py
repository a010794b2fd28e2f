"""Locks, and systems that have none."""

import os

import pytest

from ad3d_jax.workdir import locks
from ad3d_jax.workdir.folder import WorkdirError, open_workdir


def test_a_second_holder_is_refused_and_the_lock_ends_with_its_file(tmp_path):
    path = tmp_path / "lock"
    with path.open("a") as first, path.open("a") as second:
        locks.take(first)
        with pytest.raises(BlockingIOError):
            locks.take(second)
    with path.open("a") as third:
        locks.take(third)


def test_a_folder_can_be_locked_by_its_number(tmp_path):
    places = [os.open(tmp_path, os.O_RDONLY) for _ in range(2)]
    locks.take(places[0])
    with pytest.raises(BlockingIOError):
        locks.take(places[1])
    for place in places:
        os.close(place)


def test_a_system_without_locks_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.raises(WorkdirError, match="no fcntl; fit on Linux"):
        with open_workdir(tmp_path / "run", {}):
            pass
