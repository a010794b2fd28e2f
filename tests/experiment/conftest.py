"""Databases of studies for tests."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest


class Server(NamedTuple):
    """A server of PostgreSQL that a test may stop and start again."""

    address: str
    stop: Callable[[str], None]  # by mode: "fast" or "immediate"
    start: Callable[[], None]


@pytest.fixture(scope="session")
def postgresql(postgresql_server):
    """Returns the address of a server of PostgreSQL, or skips."""
    return postgresql_server.address


@pytest.fixture(scope="session")
def postgresql_server():
    """Returns a server in a temporary folder, or skips."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    program = shutil.which("pg_ctl") or (found[-1] if found else None)
    if program is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    binaries = Path(program).parent
    other = []  # PostgreSQL refuses to be run by root
    if os.getuid() == 0:
        if subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL needs a user other than root: there is no postgres")
        other = ["runuser", "-u", "postgres", "--"]
    folder = Path(
        tempfile.mkdtemp(prefix="postgresql_")
    )  # pytest's are closed to others
    if other:
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def command(name, *arguments):
        done = subprocess.run(
            [*other, str(binaries / name), *arguments],
            capture_output=True,
            text=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    command("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-D", data)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    log = str(folder / "log")

    def start():
        command("pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start")

    def stop(mode):
        command("pg_ctl", "-D", data, "-w", "-m", mode, "stop")

    start()
    yield Server(f"postgresql://postgres@127.0.0.1:{port}/postgres", stop, start)
    stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)
