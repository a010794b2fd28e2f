"""The folder of a run: one process at a time, and one configuration."""

import contextlib
import datetime
import difflib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from ad3d_jax.workdir.log import to_json

CONFIG = "config.json"
LOCK = "lock"
_ABSENT = "(absent)"


class WorkdirError(ValueError):
    """A workdir cannot be used: not writable, in use, or of another configuration."""


@contextlib.contextmanager
def open_workdir(
    path: str | Path, config: Mapping[str, Any], allow_change: Sequence[str] = ()
) -> Iterator[Path]:
    """Holds a workdir for this process and gives its folder, which is made if need be.

    Writes the configuration to config.json. Where there is one already, the run is a
    resumed one and its configuration must be the same but for the fields that
    `allow_change` names, such as "fit.steps", or "fit" for a whole group.

    Raises:
        WorkdirError: the folder cannot be written to; another process holds it; the
            configuration differs (the fields are listed with old and new value);
            `allow_change` names an unknown field.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise WorkdirError(
            f"workdir {folder}: expected a folder that can be written to, "
            f"found: {error.strerror}"
        ) from error
    with lock:
        _take(lock, folder)
        try:
            _keep_config(folder, config, allow_change)
            yield folder
        finally:
            # The file stays: were it removed, another process could hold a lock on it
            # while a third makes a new one.
            lock.truncate(0)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as JSON, all of it or nothing; NaN and infinities become null.

    OSError if the file cannot be written; an earlier file then stays as it was.
    """
    path = Path(path)
    text = json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _take(lock: Any, folder: Path) -> None:
    """Locks the open lock file and writes into it who holds it."""
    try:
        # The kernel drops this lock with its process, however that ends.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        _, where = _holder(lock, folder)
        raise WorkdirError(
            f"workdir {folder} is in use: another process holds {where}"
        ) from error
    except OSError as error:
        raise WorkdirError(
            f"workdir {folder}: the file system does not lock: {error.strerror}"
        ) from error
    other, where = _holder(lock, folder)
    host = socket.gethostname()
    if other not in (None, host):
        raise WorkdirError(
            f"workdir {folder} may be in use: another machine holds {where}; if that "
            f"process has ended, remove {folder / LOCK}"
        )
    if other is not None:
        logging.warning("taking over %s: that process has ended", where)
    lock.truncate(0)
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    json.dump({"pid": os.getpid(), "host": host, "started": started}, lock)
    lock.flush()


def _holder(lock: Any, folder: Path) -> tuple[str | None, str]:
    """Returns the host that a lock names, None for no holder, and a description."""
    lock.seek(0)
    try:
        holder = json.loads(lock.read())
        host = str(holder["host"])
        text = f"process {holder['pid']} on {host}, since {holder['started']}"
    # Empty: released; otherwise cut short by a kill, of which nothing can be told.
    except (ValueError, KeyError, TypeError):
        return None, f"{folder / LOCK}"
    return host, f"{folder / LOCK} ({text})"


def _keep_config(
    folder: Path, config: Mapping[str, Any], allow_change: Sequence[str]
) -> None:
    """Writes config.json, unless it is there and must not change."""
    path = folder / CONFIG
    new = to_json(config)
    if path.exists():
        changed = _changes(
            dotted_fields(_read_config(path)), dotted_fields(new), allow_change
        )
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
        if not changed:
            return
    try:
        write_json(path, new)
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be written: {error.strerror}") from error


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise WorkdirError(f"{path}: expected an object, found {type(config).__name__}")
    return config


def dotted_fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of a nested configuration by dotted name."""
    if not isinstance(config, dict) or not config:
        return {prefix: config} if prefix else {}
    fields = {}
    for name, value in config.items():
        fields |= dotted_fields(value, f"{prefix}.{name}" if prefix else name)
    return fields


def _changes(
    old: dict[str, Any], new: dict[str, Any], allow_change: Sequence[str]
) -> list[tuple[str, bool]]:
    """Returns (field: old -> new, whether allowed) for each field that differs."""
    names = sorted(old.keys() | new.keys())
    for allowed in allow_change:
        if not any(_within(name, allowed) for name in names):
            near = difflib.get_close_matches(allowed, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise WorkdirError(f"allow_config_change: no field {allowed!r}{hint}")
    changes = []
    for name in names:
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        # 1 and True, and 1 and 1.0, are equal in Python but not to a configuration.
        if json.dumps(before) != json.dumps(after):
            allowed = any(_within(name, field) for field in allow_change)
            changes.append((f"{name}: {before!r} -> {after!r}", allowed))
    return changes


def _within(name: str, field: str) -> bool:
    return name == field or name.startswith(f"{field}.")
