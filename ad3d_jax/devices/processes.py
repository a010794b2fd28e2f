"""Several processes that run one program together; the only file of jax.distributed.

Every process runs the same program in the same order. Arrays meet on the devices; what
is said here (which folder, whether to stop) goes through the service that the first
process holds, so that no device waits for it. With one process nothing is asked.
"""

import hashlib
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from ad3d_jax.base import Tree

EXIT_LOST = 76  # another process has ended
HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as dead
SECONDS_BETWEEN_QUESTIONS = 2.0  # whether anybody was asked to stop
_VERDICT_SECONDS = 2 * HEARTBEAT_SECONDS
_SHOWN_SECONDS = 90.0  # in which a network file system shows what another host wrote
_DAY = 24 * 3600 * 1000  # milliseconds; how long others may prepare data
_turns = itertools.count()  # of `exchange`; equal in all processes


class Cluster(NamedTuple):
    """Which process of how many this one is; None = as the cluster says."""

    coordinator: str | None = None  # HOST:PORT of the first process
    processes: int | None = None
    process: int | None = None  # from 0 on


class MismatchError(ValueError):
    """Processes that must agree do not."""


def cluster(
    coordinator: str | None, processes: int | None, process: int | None, detect: bool
) -> Cluster | None:
    """Returns what the flags of a command say, None for one process alone.

    Args:
        coordinator: HOST:PORT of the first process.
        processes: how many there are.
        process: which one this is, from 0 on.
        detect: whether jax shall find all three, as SLURM, Cloud TPU or Kubernetes say.

    Raises:
        ValueError: some are missing, or one is out of range.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if detect:
        if len(missing) < 3:
            raise ValueError(
                "--detect_cluster finds coordinator, processes and process by itself; "
                "leave them away"
            )
        return Cluster()
    if len(missing) == 3:
        return None
    if missing:
        raise ValueError(
            "--coordinator, --processes and --process belong together; missing: "
            + ", ".join(missing)
        )
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ValueError(f"--coordinator: expected HOST:PORT, found {coordinator!r}")
    if processes < 1:
        raise ValueError(f"--processes: expected at least 1, found {processes}")
    if not 0 <= process < processes:
        raise ValueError(
            f"--process: expected 0 to {processes - 1} (--processes={processes}), "
            f"found {process}"
        )
    return Cluster(coordinator, processes, process)


# --- Who does what --------------------------------------------------------------------


def is_first() -> bool:
    """Returns whether this process is the one that writes."""
    return jax.process_index() == 0


def shared(dataset: Any) -> Any:
    """Returns the data set, of which this process then reads its own rows alone.

    It has a method `share(process, processes)` for that.
    """
    if jax.process_count() == 1:
        return dataset
    return dataset.share(jax.process_index(), jax.process_count())


# --- What is said ---------------------------------------------------------------------


def exchange(text: str) -> list[str]:
    """Returns what each process says at this point of the program, in their order."""
    if jax.process_count() == 1:
        return [text]
    # jax has no public name for its service; orbax takes this one, too.
    from jax._src.distributed import global_state

    client, turn = global_state.client, next(_turns)
    # Two places in turns: none is written again before all have read it.
    place = f"ad3d_jax/said/{turn % 2}"
    own = f"{place}/{jax.process_index()}"
    client.key_value_set(own, text, allow_overwrite=True)
    client.wait_at_barrier(f"ad3d_jax/turn/{turn}", _DAY)
    said = {int(k.rpartition("/")[2]): v for k, v in client.key_value_dir_get(place)}
    return [said[process] for process in range(jax.process_count())]


def wait() -> None:
    """Waits until all processes are here."""
    exchange("")


def word_of_first(text: str) -> str:
    """Returns what the first process says; the others' text does not count."""
    return exchange(text)[0]


def lowest(values: Sequence[int]) -> list[int]:
    """Returns the smallest of all processes for each of some whole numbers."""
    said = [json.loads(text) for text in exchange(json.dumps(list(values)))]
    return [min(column) for column in zip(*said, strict=True)]


def arrays_of_first(tree: Tree) -> Tree:
    """Returns the first process's arrays, on the host; all have the same shapes.

    What is computed on two hosts may differ in the last bit.
    """
    if jax.process_count() == 1:
        return tree
    wait()  # see `Compiled`
    return jax.device_get(multihost_utils.broadcast_one_to_all(tree))


def check_same(what: str, value: Any) -> None:
    """Checks that all processes have the same.

    Args:
        what: name of it.
        value: text or a tree of arrays; of the latter a digest is compared.

    Raises:
        MismatchError: they have not; names both.
    """
    if jax.process_count() == 1:
        return
    said = exchange(value if isinstance(value, str) else _digest(value))
    for process, text in enumerate(said):
        if text != said[0]:
            raise MismatchError(
                f"{what}: the first process has {said[0][:200]}, process {process} has "
                f"{text[:200]}; all must be started with the same flags, and see the "
                "same files, workdir and data.cache among them"
            )


def wait_for(path: Path) -> None:
    """Waits until this process sees what the first one wrote, all having come here.

    Network file systems show it late. What stays away is for the reader to tell of.
    """
    wait()
    until = time.monotonic() + (0.0 if is_first() else _SHOWN_SECONDS)
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.2)


class Agreement:
    """Tells all processes at the same point of the program that one wants to stop.

    They ask equally often, and really ask each other about every two seconds: how often
    they pass by meanwhile is reckoned from the slowest.
    """

    def __init__(self):
        self._passed, self._due = 0, 1
        self._asked_at = time.monotonic()

    def __call__(self, own: bool) -> bool:
        """Returns whether any process wants to, as far as it was asked."""
        if jax.process_count() == 1:
            return own
        self._passed += 1
        if self._passed < self._due:
            return False
        pace = (time.monotonic() - self._asked_at) / self._passed
        said = [json.loads(text) for text in exchange(json.dumps([own, pace]))]
        slowest = max(pace for _, pace in said)
        fit = int(SECONDS_BETWEEN_QUESTIONS / max(slowest, 1e-6))
        self._passed, self._due = 0, max(1, min(fit, 2 * self._due))
        self._asked_at = time.monotonic()
        return any(own for own, _ in said)


def _digest(tree: Tree) -> str:
    """Returns hexadecimal digits that stand for all bytes of all leaves."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


# --- Beginning and end ----------------------------------------------------------------


def call(place: Cluster | None, run: Callable[[], int], agreed: Sequence[int]) -> int:
    """Runs a program as one of several processes, or alone, and returns its status.

    With several it runs in a child, and this process waits: what jax does where another
    process is gone is to abort, and somebody must say in a sentence what that was.

    Args:
        place: None = alone.
        run: returns the exit status.
        agreed: statuses with which all processes end together; with any other this one
            leaves at once, and the others learn it by its silence.
    """
    if place is None:
        return run()
    _watch(place)
    try:
        _join(place)
        status = run()
        if status in agreed:
            wait()  # the first may still be writing
            jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError:
        # Where another process is gone, jax ends this one as soon as that is certain.
        time.sleep(_VERDICT_SECONDS)
        traceback.print_exc()
        status = 1
    except ValueError as mistake:
        sys.stderr.write(f"error: {mistake}\n")
        status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # not by jax's own exit, which waits for the others


def _join(place: Cluster) -> None:
    """Connects with the other processes.

    Raises:
        ValueError: no cluster is found, or the others cannot be reached.
    """
    # Its own handling of signals would keep SIGTERM from us.
    jax.config.update("jax_enable_preemption_service", False)
    # On CPUs two programs at a time may mix what they send each other.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    found = place.coordinator is None
    try:
        jax.distributed.initialize(
            *place,
            cluster_detection_method=None if found else "deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        if not found:
            raise
        raise ValueError(
            f"--detect_cluster: jax finds neither SLURM, Open MPI, a Cloud TPU nor "
            f"Kubernetes here ({error}); name --coordinator, --processes and --process"
        ) from error
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"the processes found no connection by {place.coordinator or 'the cluster'}"
            f": {reason}"
        ) from error


def _watch(place: Cluster) -> None:
    """Returns in a child process; this one ends as the child does and says why."""
    alive, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
        return
    os.close(alive)

    def pass_on(*_):
        # Not as SIGINT, of which a terminal sends the child one itself, and two are one
        # too many.
        os.kill(child, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        sys.stderr.write(f"error: {_why(place, -status)}\n")
        sys.stderr.flush()
        status = EXIT_LOST if -status == signal.SIGABRT else 128 - status
    os._exit(status)


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)  # nothing is ever written; it returns when the parent is gone
    os._exit(EXIT_LOST)


def _why(place: Cluster, number: int) -> str:
    """Returns the sentence on a process that a signal ended."""
    name = "this process"
    if place.processes is not None:
        name = f"process {place.process} of {place.processes}"
    reason = f"{name} was ended by {signal.Signals(number).name}"
    if number == signal.SIGABRT:
        reason = (
            f"{name} has lost another process, which has most likely died; that one's "
            "output says why"
        )
    return (
        f"{reason}. Start the same command again for all processes: the run goes on "
        "from its last checkpoint"
    )
