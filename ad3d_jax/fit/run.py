"""What the phases of one fit share: options, log, checkpoints, passes and steps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from ad3d_jax.base import Array, Batch, Dataset, State, System, Tree
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.fit.monitor import Interruption, Monitor, Preempted
from ad3d_jax.fit.positions import Position, number, save
from ad3d_jax.fit.step import Report


class Options(NamedTuple):
    """How a fit runs; batch size, seed, clipping and phases change what it gives."""

    batch_size: int = 8  # rows of all devices together, where a phase has no own
    seed: int = 0  # of the order of samples
    max_grad_norm: float | None = None  # clips an update's global gradient norm
    checkpoint_every: int | None = None  # steps; None = at the ends of phases alone
    log_every: int = 50  # steps
    patience: int = 5  # steps in a row that may be not finite, less one
    loaded: tuple[str, ...] = ()  # the pretrained parts that the state holds already
    phases: tuple[str, ...] | None = (
        None  # names of those to run; None = all not loaded
    )
    progress: bool = True  # show bars
    save_seconds: float = 30.0  # between checkpoints while rows are chosen, at least
    device_memory_bytes: int | None = None  # of one device; None = as measured
    host_memory_bytes: int | None = None  # None = as measured
    cache_folder: str | PathLike | None = (
        None  # of features that memory has no room for
    )


class Run(NamedTuple):
    """What the phases of one fit share."""

    system: System
    dataset: Dataset
    options: Options
    engine: engines.Engine
    checkpointer: Any
    log: Any
    interruption: Interruption
    cache: Any  # `fit.cache.Cache`

    def save(self, position: Position) -> int | None:
        """Saves a position where there is a checkpointer, and returns its number.

        Of several processes the first saves it.
        """
        if self.checkpointer is None:
            return None
        if not processes.is_first():
            return number(self.system, position)
        return save(self.system, position, self.checkpointer)

    def write(self, **values) -> None:
        """Writes a line to the log, where there is one."""
        if self.log is not None:
            self.log.write(**values)

    def limits(self) -> memory.Limits:
        """Returns the memory that there is now, as the options or the machine say."""
        host_bytes = self.options.host_memory_bytes
        if host_bytes is not None:
            host_bytes = max(host_bytes - self.cache.store.bytes, 0)
        return memory.measure(
            self.engine.mesh.devices.flat, self.options.device_memory_bytes, host_bytes
        )

    def bar(self, name: str, source: str) -> tqdm:
        """Returns the bar of a pass over a source."""
        return tqdm(
            total=self.dataset.size(source),
            desc=name,
            unit="image",
            mininterval=1.0,
            disable=not self.options.progress,
        )


def ordered_pass(
    run: Run,
    name: str,
    source: str,
    function: Callable[[Array, State, Batch], Tree],
    state: State,
    key: Array,
    extend: Callable[[Iterator[Batch]], Iterator[Batch]] = iter,
) -> Iterator[tuple[Batch, Tree]]:
    """Yields (batch, rows) of `function(key, state, batch)` over a source, in order.

    Args:
        run: the fit.
        name: of the pass, in messages.
        source: that is passed over.
        function: returns a tree of [B,...].
        state: on the host or anywhere.
        key: of all batches.
        extend: what is done to the host batches before, see `cache.Feed`.

    Raises:
        MemoryLimitError: the banks that the state holds fit no device.
        Preempted: the process was asked to stop.
    """
    size, engine = run.options.batch_size, run.engine
    compiled = compilation.compile_map(engine, function, name=name)
    split = memory.banks_to_split(name, run.system.sharded, state, run.limits())
    key, state = engines.replicate(engine, key), engines.place(engine, state, split)
    batches = extend(run.dataset.ordered(source, size, 0))
    with run.bar(name, source) as bar:
        for batch, rows in compilation.map_rows(engine, compiled, key, state, batches):
            bar.update(len(batch.weight))
            yield batch, rows
            stop_if_asked(run, name)


def stop_if_asked(run: Run, name: str) -> None:
    """Raises Preempted in a pass where the process was asked to stop."""
    if run.interruption.wanted():
        raise Preempted(f"stopped in {name}")


def fill(passed: Iterable[tuple[Batch, Tree]], source: str, size: int) -> Tree:
    """Returns the rows of a whole pass in arrays [size,...] on the host.

    Args:
        passed: from `ordered_pass`.
        source: that was passed over.
        size: samples that it says it holds.

    Raises:
        ValueError: the source has not the size that it says.
    """
    whole, first = None, 0
    for batch, rows in passed:
        last = first + len(batch.weight)
        if whole is None:
            # In full at once: lists that are joined take twice as much memory.
            whole = jax.tree.map(partial(_room, size), rows)
        if last <= size:
            jax.tree.map(partial(_write, first), whole, rows)
        first = last
    if first != size:
        raise ValueError(
            f"source {source} says that it holds {size} samples, but gives {first}"
        )
    return whole


def _room(size: int, part: np.ndarray) -> np.ndarray:
    """Returns an array for `size` rows like these."""
    return np.empty((size, *part.shape[1:]), part.dtype)


def _write(first: int, whole: np.ndarray, part: np.ndarray) -> None:
    """Writes the part into the whole from row `first` on."""
    whole[first : first + len(part)] = part


def run_steps(
    run: Run,
    name: str,
    monitor: Monitor,
    steps: range,
    advance: Callable[[], tuple[Sequence[Array], Report]],
    save: Callable[[], int | None],
) -> None:
    """Does the steps of a Train phase, with its progress and its checkpoints.

    Args:
        run: options and signals.
        name: of the phase, in messages.
        monitor: takes the reports; is closed.
        steps: numbers of the steps that are due, counted from 1.
        advance: does one step; returns the samples' ids of each training and a report.
        save: saves where all stands.

    Raises:
        NonFiniteError: see `Monitor.drain`.
        Preempted: the process was asked to stop; the position is saved.
    """
    every = run.options.checkpoint_every
    try:
        for step in steps:
            monitor.add(step, *advance())
            stop = run.interruption.wanted()
            if stop or (every and step % every == 0 and step < steps[-1]):
                monitor.drain()
                monitor.saved(save())
            if stop:
                raise Preempted(f"stopped in phase {name} after step {step}")
        monitor.drain()
    finally:
        monitor.close()


def phase_name(run: Run, phase) -> str:
    """Returns what bars and messages call a phase."""
    return f"{run.system.name}.{phase.name}"
