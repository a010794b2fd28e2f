"""The folder of a run: one process at a time, and one configuration."""

import contextlib
import datetime
import difflib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from absl import logging

from ad3d_jax.workdir import fields, locks, names
from ad3d_jax.workdir.atomic import write_bytes
from ad3d_jax.workdir.disk import DiskFullError, writing
from ad3d_jax.workdir.json_files import read_json, to_json, write_json

_ABSENT = "(absent)"


class WorkdirError(ValueError):
    """A workdir cannot be used: not writable, in use, or of another configuration."""


class InUseError(WorkdirError):
    """Another process holds the workdir, or may hold it."""


class Holder(NamedTuple):
    """Who holds a workdir."""

    pid: int
    host: str  # a container's own
    machine: str  # see `_machine`
    started: str  # ISO 8601

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


@contextlib.contextmanager
def open_workdir(
    path: str | Path,
    config: Mapping[str, Any],
    allow_change: Sequence[str] = (),
    has_ended: Callable[[Holder], bool] = lambda _: False,
) -> Iterator[Path]:
    """Holds a workdir for this process and gives its folder, which is made if need be.

    Writes the configuration to config.json. Where something has run already, the run
    is a resumed one and its configuration must be the same but for the fields that
    `allow_change` names, such as "fit.steps", or "fit" for a whole group.

    Nothing here tells whether a process of another machine has ended; who knows it from
    elsewhere answers by `has_ended`.

    Raises:
        InUseError: another process holds the folder.
        WorkdirError: the folder cannot be written to; the configuration differs (the
            fields are listed with old and new value); `allow_change` names an unknown
            field.
        UnreadableError: there is a configuration, and it is damaged.
        DiskFullError: no space is left.
    """
    with held(path, has_ended) as folder:
        path = folder / names.CONFIG
        before = path.read_bytes() if path.exists() else None
        try:
            _keep_config(folder, config, allow_change)
            yield folder
        except WorkdirError:  # refused: what is there stays described as it was
            if before is not None:
                write_bytes(path, before)
            raise


@contextlib.contextmanager
def held(
    path: str | Path, has_ended: Callable[[Holder], bool] = lambda _: False
) -> Iterator[Path]:
    """Holds a folder for this process and gives it; it is made if need be.

    Raises:
        InUseError: another process holds the folder.
        WorkdirError: the folder cannot be written to.
        DiskFullError: no space is left.
    """
    folder = Path(path)
    with writing(folder), _open_lock(folder) as lock:
        _take(lock, folder, has_ended)
        try:
            yield folder
        finally:
            # The file stays: were it removed, another process could hold a lock on it
            # while a third makes a new one.
            lock.truncate(0)


def _open_lock(folder: Path) -> TextIO:
    """Returns the open lock file of a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open(folder / names.LOCK, "a+", encoding="utf-8")
    except OSError as error:
        raise WorkdirError(
            f"workdir {folder}: expected a folder that can be written to, "
            f"found: {error.strerror}"
        ) from error


def _take(lock: Any, folder: Path, has_ended: Callable[[Holder], bool]) -> None:
    """Locks the open lock file and writes into it who holds it."""
    try:
        # The kernel drops this lock with its process, however that ends.
        locks.take(lock)
    except BlockingIOError as error:
        raise InUseError(
            f"workdir {folder} is in use: another process holds "
            f"{_described(folder, _holder(lock))}"
        ) from error
    except OSError as error:
        raise WorkdirError(
            f"workdir {folder}: cannot be locked: {error.strerror}"
        ) from error
    other, machine = _holder(lock), _machine()
    if other is not None:
        where = _described(folder, other)
        if other.machine != machine and not has_ended(other):
            raise InUseError(
                f"workdir {folder} may be in use: another machine holds {where}; if "
                f"that process has ended, remove {folder / names.LOCK}"
            )
        logging.warning("taking over %s: that process has ended", where)
    lock.truncate(0)
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    holder = Holder(os.getpid(), socket.gethostname(), machine, started)
    json.dump(holder._asdict(), lock)
    lock.flush()


def _holder(lock: Any) -> Holder | None:
    """Returns the holder that a lock names, None for none."""
    lock.seek(0)
    try:
        return Holder(**json.loads(lock.read()))
    # Empty: released; otherwise cut short by a kill, of which nothing can be told.
    except (ValueError, TypeError):
        return None


def _described(folder: Path, holder: Holder | None) -> str:
    return f"{folder / names.LOCK}" + (f" ({holder})" if holder else "")


def _machine() -> str:
    """Returns what names this machine since it started: containers on it share locks.

    Where the system does not say, its name.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def _keep_config(
    folder: Path, config: Mapping[str, Any], allow_change: Sequence[str]
) -> None:
    """Writes config.json, unless something has run with it and it must not change."""
    path = folder / names.CONFIG
    new = to_json(config)
    resumed = path.exists() and has_run(folder)
    changed = _changes(read_json(path) if resumed else new, new, allow_change)
    refused = [line for line, allowed in changed if not allowed]
    if refused:
        raise WorkdirError(
            f"{path}: the configuration of this run has changed:\n  "
            + "\n  ".join(refused)
            + "\nuse another workdir, or --allow_config_change=FIELD if the run "
            "may go on with the new value"
        )
    for line, _ in changed:
        logging.warning("%s: allowed change: %s", path, line)
    if resumed and not changed:
        return
    try:
        write_json(path, new)
    except DiskFullError:
        raise
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be written: {error.strerror}") from error


def has_run(folder: str | Path) -> bool:
    """Returns whether a folder holds a state, checkpoints of one, or a result."""
    folder = Path(folder)
    ends = (names.METRICS, names.FAILED, names.ENSEMBLE)
    if any((folder / name).exists() for name in ends):
        return True
    saved = (folder / names.CHECKPOINTS).glob("*/*")
    return any(entry.name.isdecimal() for entry in saved)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Returns "old -> new" of each field that differs, by its dotted name."""
    old, new = fields.values(old), fields.values(new)
    found = {}
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        # 1 and True, and 1 and 1.0, are equal in Python but not to a configuration.
        if json.dumps(before) != json.dumps(after):
            found[name] = f"{before!r} -> {after!r}"
    return found


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], allow_change: Sequence[str]
) -> list[tuple[str, bool]]:
    """Returns (field: old -> new, whether allowed) for each field that differs."""
    every = sorted(fields.values(old).keys() | fields.values(new).keys())
    for allowed in allow_change:
        if not any(fields.within(name, allowed) for name in every):
            near = difflib.get_close_matches(allowed, every, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise WorkdirError(f"allow_config_change: no field {allowed!r}{hint}")
    return [
        (f"{name}: {change}", any(fields.within(name, each) for each in allow_change))
        for name, change in differences(old, new).items()
    ]
