"""Training a system: its phases in order, resumable, on any number of devices."""

import time
from collections.abc import Callable

import jax

from ad3d_jax.base import (
    Array,
    Batch,
    Dataset,
    Gather,
    State,
    System,
    Train,
    missing_fields,
)
from ad3d_jax.devices import engines, processes
from ad3d_jax.fit.cache import Cache
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.fit.gather import gather
from ad3d_jax.fit.monitor import Interruption, NonFiniteError, Preempted
from ad3d_jax.fit.phases import batch_rows, check_phases, count_steps, is_due
from ad3d_jax.fit.positions import Position, restore
from ad3d_jax.fit.run import Options, Run
from ad3d_jax.fit.sum import add_up
from ad3d_jax.fit.train import train

__all__ = [
    "NonFiniteError",
    "Options",
    "Preempted",
    "check_fields",
    "count_steps",
    "fit",
]


def fit(
    system: System,
    state: State,
    key: Array,
    dataset: Dataset,
    options: Options = Options(),  # noqa: B008 (immutable)
    engine: engines.Engine | None = None,
    checkpointer=None,
    log=None,
    after_phase: Callable[[str, State], None] | None = None,
    store: Store | None = None,
) -> State:
    """Runs the phases of a system in order and returns the fitted state.

    Phases that `Options` leaves out are passed over; the others have the keys and the
    numbers that they have anyway.

    Of several processes (`devices.processes`) each calls it alike, with the same files;
    the first saves.

    Args:
        system: what to fit.
        state: from `system.init`, with what files bring in place.
        key: typed key; phase p uses fold_in(key, p).
        dataset: where the samples come from.
        options: see `Options`.
        engine: what to run on; None = pmap on all local devices.
        checkpointer: `workdir.checkpoint.Checkpointer`; the fit goes on from the newest
            checkpoint it holds, with the same bits as if it had never stopped.
        log: `workdir.log.Log`.
        after_phase: is called with a phase's name and the state after it, before that
            is saved; of a fit that is killed meanwhile, once more.
        store: of frozen features that other fits use, too; None = its own, with the
            folder `Options.cache_folder`.

    Raises:
        ValueError: a field that the system needs is missing, a source is empty, the
            batch size does not suit the devices, a name of the options is unknown, or
            a checkpoint does not fit.
        MemoryLimitError: a bank fits neither host nor devices; the figures are named.
        NonFiniteError: the loss stays infinite or undefined.
        Preempted: SIGTERM or SIGINT came; the position is saved.
    """
    engine = engines.make_engine() if engine is None else engine
    check_phases(system, options)
    system = count_steps(system, dataset, options.batch_size)
    position = None
    if checkpointer is not None:
        position = restore(system, state, checkpointer)
    position = position or Position(state)
    begun = f"step {position.step} of phase {position.phase}"
    processes.check_same("checkpoint to go on from", begun)
    processes.check_same("state to begin with", position[:1] + position[2:])
    with Interruption() as interruption:
        cache = Cache(Store(options.cache_folder) if store is None else store)
        run = Run(
            system, dataset, options, engine, checkpointer, log, interruption, cache
        )
        check_data(run, position.phase)
        for index in range(position.phase, len(system.phases)):
            name = system.phases[index].name
            if not is_due(system.phases[index], options):
                position = Position(position.state, index + 1)
                continue
            started = time.monotonic()
            state = run_phase(run, position, jax.random.fold_in(key, index))
            if after_phase is not None:
                after_phase(name, state)
            position = Position(state, index + 1)
            run.save(position)
            seconds = time.monotonic() - started
            run.write(kind="phase", phase=name, seconds=seconds)
    return position.state


def check_fields(name: str, needs: tuple[str, ...], batch: Batch, purpose: str) -> None:
    """Checks that a batch holds the fields a system needs.

    Raises:
        ValueError: fields are missing; names the system, the fields and what is there.
    """
    missing = missing_fields(needs, batch)
    if missing:
        present = [f for f in Batch._fields if getattr(batch, f) is not None]
        present = [f for f in present if f != "extras"]
        present += [f"extras.{name}" for name in batch.extras]
        raise ValueError(
            f"system {name} needs {', '.join(missing)} to {purpose}, but the data "
            f"holds only {', '.join(present)}"
        )


def run_phase(run: Run, position: Position, key: Array) -> State:
    """Runs the phase of a position and returns the state after it."""
    phase = run.system.phases[position.phase]
    if isinstance(phase, Train):
        return train(run, position, key)
    if isinstance(phase, Gather):
        return gather(run, position, key)
    return add_up(run, position, key)


def check_data(run: Run, first: int) -> None:
    """Checks the first batch of every source that the phases from `first` on read.

    Raises:
        ValueError: a source is empty, a field is missing, or a batch cannot be shared
            by the devices.
    """
    system, size = run.system, run.options.batch_size
    due = [phase for phase in system.phases[first:] if is_due(phase, run.options)]
    reads = dict.fromkeys((p.source, p.needs, batch_rows(p, size)) for p in due)
    for source, needs, rows in reads:
        if run.dataset.size(source) < 1:
            raise ValueError(f"source {source} holds no samples to fit {system.name}")
        batch = next(iter(run.dataset.ordered(source, rows, 0)))
        needs = system.needs_fit if needs is None else needs
        check_fields(system.name, needs, batch, "fit")
        engines.check_divisible(run.engine, batch)
