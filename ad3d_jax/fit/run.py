"""What the phases of one fit share: options, log, checkpoints, passes and steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from ad3d_jax.base import Array, Batch, Dataset, State, System, Tree
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.fit.monitor import Interruption, Monitor, Preempted
from ad3d_jax.fit.positions import Position, number, save
from ad3d_jax.fit.step import Report


class Options(NamedTuple):
    """How a fit runs; only batch size, seed and clipping change what it gives."""

    batch_size: int = 8  # rows of all devices together
    seed: int = 0  # of the order of samples
    max_grad_norm: float | None = None  # clips an update's global gradient norm
    checkpoint_every: int | None = None  # steps; None = at the ends of phases alone
    log_every: int = 50  # steps
    patience: int = 5  # steps in a row that may be not finite, less one
    artifacts: Mapping[str, str] = {}  # files that stand for phases, by artifact name
    save_artifacts: Mapping[str, str] = {}  # files to write, by artifact name
    progress: bool = True  # show bars
    save_seconds: float = 30.0  # between checkpoints while rows are chosen, at least
    device_memory_bytes: int | None = None  # of one device; None = as measured
    host_memory_bytes: int | None = None  # None = as measured


class Run(NamedTuple):
    """What the phases of one fit share."""

    system: System
    dataset: Dataset
    options: Options
    engine: engines.Engine
    checkpointer: Any
    log: Any
    interruption: Interruption

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
        return memory.measure(
            self.engine.mesh.devices.flat,
            self.options.device_memory_bytes,
            self.options.host_memory_bytes,
        )


def ordered_pass(
    run: Run, name: str, source: str, function, state: State, key: Array
) -> Iterator[tuple[Batch, Tree]]:
    """Yields (batch, rows) of `function(key, state, batch)` over a split, in order.

    Raises:
        MemoryLimitError: the banks that the state holds fit no device.
        Preempted: the process was asked to stop.
    """
    options, engine = run.options, run.engine
    compiled = compilation.compile_map(engine, function, name=name)
    split = memory.banks_to_split(name, run.system.sharded, state, run.limits())
    key, state = engines.replicate(engine, key), engines.place(engine, state, split)
    batches = run.dataset.ordered(source, options.batch_size, 0)
    with tqdm(
        total=run.dataset.size(source),
        desc=name,
        unit="image",
        mininterval=1.0,
        disable=not options.progress,
    ) as bar:
        for batch, rows in compilation.map_rows(engine, compiled, key, state, batches):
            bar.update(len(batch.weight))
            yield batch, rows
            if run.interruption.wanted():
                raise Preempted(f"stopped in {name}; it begins anew next time")


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


def with_cache(phase, function):
    """Returns `function(key, state, batch)` with the phase's cache in the extras."""
    if phase.cache is None:
        return function

    def cached(key: Array, state: State, batch: Batch) -> Tree:
        extras = {**batch.extras, **phase.cache(state, batch)}
        return function(key, state, batch._replace(extras=extras))

    return cached


def phase_name(run: Run, phase) -> str:
    """Returns what bars and messages call a phase."""
    return f"{run.system.name}.{phase.name}"
