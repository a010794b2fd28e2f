"""Runs commands that die, or whose disk fills up, at a chosen event.

Each is a process of its own, forked from one that has read the libraries but has not
begun to use them, so that it starts at once. The system `bank` of `reference_systems`
is known to it; its configuration is BANK.
"""

import contextlib
import ctypes
import dataclasses
import multiprocessing
import os
import pkgutil
import resource
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

BANK = Path(__file__).with_name("bank_config.py")
FILLER = "filler"  # what takes the space of a disk

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["tensorflow", "data_pipelines.builders.mvtec3d", "experiments.command"]
    + ["ad3d_jax.experiment.inspect", "matplotlib.backends.backend_agg"]
    + ["reference_systems", __name__]
)


class Event(NamedTuple):
    """What happens to a path, or the end of a call of a function, the nth time."""

    what: str  # "open" to write, "os.rename", "os.mkdir", or "module:function"
    place: str = "*"  # pattern of the path; of its new name, where it is renamed
    count: int = 1


class Disk(NamedTuple):
    """A folder of which all space can be taken."""

    folder: Path  # as commands name it
    seen: Path  # as it is seen from here
    keeper: (
        int | None
    )  # the process that has mounted it; None = it is a folder like any


class Ended(NamedTuple):
    """How a command ended."""

    status: int  # -9: killed
    said: str  # on both streams


def run(words, event=None, disk=None) -> Ended:
    """Runs a command to its end.

    Args:
        words: the module, and its arguments.
        event: at which the process is killed; None = at none.
        disk: that it sees; from the event on there is no space on it, and the process
            is not killed.
    """
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_command, args=(words, event, disk, sender))
    process.start()
    sender.close()
    with open(receiver.fileno(), "rb", closefd=False) as stream:
        said = stream.read().decode(errors="replace")
    process.join()
    return Ended(process.exitcode, said)


def _command(words, event, disk, sender) -> None:
    from reference_systems import bank

    from ad3d_jax.systems import SYSTEMS, Entry

    if disk and disk.keeper:
        _enter(disk.keeper)
    for stream in (1, 2):
        os.dup2(sender.fileno(), stream)
    sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))
    sender.close()
    hyper = {"learning_rate": 1e-3}
    SYSTEMS["bank"] = Entry(_Bank, lambda config: bank(config.steps), hyper)
    if event is not None:
        _watch(event, (lambda: fill(disk)) if disk else _die)
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


@dataclasses.dataclass(frozen=True)
class _Bank:
    steps: int = 6


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def small_files(limit: int):
    """Makes writing beyond `limit` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """Gives a folder that is a small disk of its own.

    A process keeps it mounted, for those that enter its namespaces. Where that is not
    allowed, it is a folder like any, see `fill`.
    """
    mount = 'mount -t tmpfs -o size=32m disk "$0" && echo mounted && exec sleep 9999'
    keeper = subprocess.Popen(
        ["sh", "-c", 'exec unshare -rm sh -c "$0" "$1"', mount, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if keeper.stdout.readline() == "mounted\n":
            seen = Path(f"/proc/{keeper.pid}/root{folder}")
            yield Disk(folder, seen, keeper.pid)
        else:
            yield Disk(folder, folder, None)
    finally:
        keeper.kill()
        keeper.communicate()


def make_space(disk: Disk) -> None:
    """Undoes `fill`."""
    (disk.seen / FILLER).unlink(missing_ok=True)


def fill(disk: Disk) -> None:
    """Leaves no space on a disk; where it is none, this process may write no more."""
    if not disk.keeper:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        return resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    with open(disk.folder / FILLER, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return None


def _enter(keeper: int) -> None:
    """Makes this process, which has one thread, see what another has mounted."""
    here, system = os.getcwd(), ctypes.CDLL(None, use_errno=True)
    for kind in ("user", "mnt"):
        with open(f"/proc/{keeper}/ns/{kind}") as namespace:
            if system.setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"the {kind} namespace is closed")
    os.chdir(here)


def _watch(event: Event, act) -> None:
    """Calls `act` once, when the event comes for the nth time."""
    left = event.count

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            act()

    if ":" in event.what:
        module, name = event.what.split(":")
        function = pkgutil.resolve_name(event.what)

        def counted(*args, **kwargs):
            result = function(*args, **kwargs)
            count()
            return result

        setattr(sys.modules[module], name, counted)
        return

    def hook(what: str, args: tuple) -> None:
        if what == event.what and left > 0:
            path = args[1] if what == "os.rename" else args[0]
            reads = what == "open" and args[2] & os.O_ACCMODE == os.O_RDONLY
            named = isinstance(path, str | os.PathLike)
            if named and not reads and fnmatch(os.fspath(path), event.place):
                count()

    sys.addaudithook(hook)
