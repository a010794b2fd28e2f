"""The memory that a bank takes against the memory that there is."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
from absl import logging
from tqdm import tqdm

from ad3d_jax.base import Plan, State, Tree
from ad3d_jax.devices import processes
from ad3d_jax.ops.knn import Bank, chunk_rows

# A bank above this share of a device is split: the rest is for features and slices.
SHARE = 3
HALVINGS = 3  # of the chunk, before memory that ran out is an error

_CGROUPS = (  # (limit, usage, statistics, name in them of what can be taken back)
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)
_Result = TypeVar("_Result")


class MemoryLimitError(ValueError):
    """A bank needs more memory than there is."""


class Limits(NamedTuple):
    """The memory that there is."""

    device_bytes: int  # of each device
    host_bytes: int
    devices: int


def parts(plan: Plan, limits: Limits) -> int:
    """Returns over how many devices the rows are split: one or all.

    They are split where one device would be filled to more than a third.
    """
    whole = plan.split_bytes + plan.whole_bytes
    return limits.devices if SHARE * whole > limits.device_bytes else 1


def device_peak(plan: Plan, limits: Limits) -> int:
    """Returns the bytes that each device needs."""
    return -(-plan.split_bytes // parts(plan, limits)) + plan.whole_bytes


def describe(name: str, plan: Plan, limits: Limits) -> str:
    """Returns the plan of a phase or a score as one line with all its figures."""
    count = parts(plan, limits)
    kept = "" if plan.kept == plan.rows else f", {plan.kept:,} kept"
    host = f", {_size(plan.host_bytes)} on the host" if plan.host_bytes else ""
    where = "each device" if limits.devices > 1 else "the device"
    split = f" (split over {count} devices)" if count > 1 else ""
    return (
        f"{name}: {plan.rows:,} rows of {plan.dimensions:,} numbers{kept}; bank "
        f"{_size(plan.bank_bytes)}, {plan.chunk:,} rows compared at a time; needs "
        f"{_size(device_peak(plan, limits))} on {where}{split}{host}; there are "
        f"{_size(limits.device_bytes)} on {where} and {_size(limits.host_bytes)} on "
        "the host"
    )


def figures(plan: Plan, limits: Limits) -> dict[str, int]:
    """Returns the plan and the limits by name, for the log."""
    return {
        **plan._asdict(),
        "parts": parts(plan, limits),
        "device_peak_bytes": device_peak(plan, limits),
        "device_limit_bytes": limits.device_bytes,
        "host_limit_bytes": limits.host_bytes,
        "devices": limits.devices,
    }


def check(name: str, plan: Plan, limits: Limits) -> None:
    """Checks that what is planned fits.

    Raises:
        MemoryLimitError: the host is too small, or every device is, though all of them
            share the rows; names all figures.
    """
    short = [
        place
        for place, needed, there in (
            ("the devices", device_peak(plan, limits), limits.device_bytes),
            ("the host", plan.host_bytes, limits.host_bytes),
        )
        if needed > there
    ]
    if short:
        raise MemoryLimitError(
            f"not enough memory on {' and '.join(short)}: "
            f"{describe(name, plan, limits)}; keep fewer rows, choose a smaller "
            "image or use more devices"
        )


def check_sums(name: str, emitted: Tree, limits: Limits) -> None:
    """Checks that the sums of a phase fit: on a device thrice what a batch emits.

    Args:
        name: of the phase, for the message.
        emitted: the shapes of what is added up.
        limits: the memory that there is.

    Raises:
        MemoryLimitError: the devices or the host are too small; names all figures.
    """
    each = _bytes(emitted)
    # Two numbers a sum, and what the next batch adds; on the host both and float64.
    needed = {"the devices": 3 * each, "the host": 4 * each}
    there = {"the devices": limits.device_bytes, "the host": limits.host_bytes}
    short = [place for place in needed if needed[place] > there[place]]
    if short:
        figures = ", ".join(
            f"{_size(needed[place])} on {place} of {_size(there[place])}"
            for place in short
        )
        raise MemoryLimitError(
            f"not enough memory: {name} adds up {_size(each)} of statistics and needs "
            f"{figures}; keep fewer dimensions or choose a smaller image"
        )


def say(line: str) -> None:
    """Shows a plan to the user, also between progress bars."""
    if processes.is_first():
        tqdm.write(line, file=sys.stderr)


def of_banks(names: Iterable[str], state: State) -> Plan | None:
    """Returns what scoring with the banks of a state takes, None without any.

    The working memory of feature extractors is not known and not in it.
    """
    held = state.memory if isinstance(state.memory, Mapping) else {}
    banks = [held[name] for name in names if isinstance(held.get(name), Bank)]
    rows = sum(len(bank.number) for bank in banks)
    if not rows:  # not filled yet
        return None
    split = sum(_bytes((b.rows, b.half_norms, b.number)) for b in banks)
    widest = max(banks, key=lambda bank: bank.rows.shape[1])
    return Plan(
        rows=rows,
        kept=rows,
        dimensions=widest.rows.shape[1],
        bank_bytes=sum(_bytes(b.rows) for b in banks),
        split_bytes=split,
        whole_bytes=_bytes(state) - split + sum(b.chunk_bytes for b in banks),
        host_bytes=0,  # there already
        chunk=chunk_rows(1, *widest.rows.shape, widest.chunk_bytes),
    )


def banks_to_split(
    name: str, sharded: tuple[str, ...], state: State, limits: Limits
) -> tuple[str, ...]:
    """Returns which of the banks that may be split must be: all or none.

    Raises:
        MemoryLimitError: they do not fit, though split over all devices.
    """
    plan = of_banks(sharded, state)
    if plan is None:
        return ()
    check(name, plan, limits)
    if parts(plan, limits) == 1:
        return ()
    return tuple(n for n in sharded if isinstance(state.memory.get(n), Bank))


def with_smaller_chunks(
    run: Callable[[Tree], _Result], tree: Tree, account: str
) -> tuple[_Result, Tree]:
    """Returns (run(tree), tree), with smaller chunks where memory ran out.

    Args:
        run: what may exhaust a device's memory; it waits for its result.
        tree: holds the banks; the chunk of each is halved up to 3 times.
        account: what was planned, for the error.

    Raises:
        MemoryLimitError: the memory did not suffice in the end.
    """
    for left in reversed(range(HALVINGS + 1)):
        try:
            return run(tree), tree
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            said = str(error).strip().partition("\n")[0]
        smaller = _halved(tree)
        if not left or smaller is None:
            break
        logging.warning(
            "device memory ran out (%s); trying again with half the chunk: %s",
            said,
            account,
        )
        tree = smaller
    raise MemoryLimitError(f"device memory ran out ({said}): {account}")


def measure(
    devices: Iterable[jax.Device],
    device_bytes: int | None = None,
    host_bytes: int | None = None,
) -> Limits:
    """Returns the memory that there is; the given figures stand for measured ones.

    Devices that do not tell, as a CPU's, share the host's memory. Of several processes
    the poorest counts, so that all plan alike.
    """
    devices = list(devices)
    own = [device for device in devices if device.process_index == jax.process_index()]
    if host_bytes is None:
        host_bytes = free_host_bytes()
    if device_bytes is None:
        known = [(device.memory_stats() or {}).get("bytes_limit") for device in own]
        device_bytes = min(each or host_bytes // len(own) for each in known)
    device_bytes, host_bytes = processes.lowest([int(device_bytes), int(host_bytes)])
    return Limits(device_bytes, host_bytes, len(devices))


def free_host_bytes(
    memory: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int:
    """Returns the memory that this process can still take, all where nothing is told.

    It is what Linux calls available, or what a container may still take if less.
    """
    try:
        lines = memory.read_text(encoding="ascii").splitlines()
        found = dict(line.split(":", 1) for line in lines)
        free = [int(found["MemAvailable"].split()[0]) * 1024]
    except (OSError, KeyError, ValueError):
        free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit, usage, statistics, cached in _CGROUPS:
        try:
            most, used = (int((cgroup / name).read_text()) for name in (limit, usage))
            lines = (cgroup / statistics).read_text(encoding="ascii").splitlines()
            back = int(dict(line.split() for line in lines).get(cached, 0))
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
        free.append(max(most - used + back, 0))
    return min(free)


def peak_bytes() -> int:
    """Returns the most memory in use so far, of the first device where it tells.

    Else, as of a CPU, the largest resident size of this process.
    """
    known = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return host_peak_bytes() if known is None else int(known)


def host_peak_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Returns the largest resident size that this process has had."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        found = dict(line.split(":", 1) for line in lines)
        # Not the usual figure, which counts what the parent process had, too.
        return int(found["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        import resource  # which Windows does not have

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _halved(tree: Tree) -> Tree | None:
    """Returns the tree with every bank's chunk halved, None where it has no bank."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, Bank))
    if not any(isinstance(leaf, Bank) for leaf in leaves):
        return None
    halved = [
        dataclasses.replace(x, chunk_bytes=max(x.chunk_bytes // 2, 1))
        if isinstance(x, Bank)
        else x
        for x in leaves
    ]
    return jax.tree.unflatten(structure, halved)


def _bytes(tree: Tree) -> int:
    """Returns the bytes of all arrays of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _size(count: int) -> str:
    """Returns a number of bytes in words."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
