"""Training a system: its phases in order, resumable, on any number of devices."""

import time

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
from ad3d_jax.devices import compilation, engines, processes
from ad3d_jax.fit.cache import features_of, with_features
from ad3d_jax.fit.gather import gather
from ad3d_jax.fit.monitor import (
    Account,
    Interruption,
    Monitor,
    NonFiniteError,
    Preempted,
)
from ad3d_jax.fit.positions import Position, restore
from ad3d_jax.fit.run import Options, Run, phase_name, run_steps
from ad3d_jax.fit.step import begin, fixed_part, train_step

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
) -> State:
    """Runs the phases of a system in order and returns the fitted state.

    Of several processes (`devices.processes`) each calls it alike, with the same files;
    the first saves.

    Args:
        system: what to fit.
        state: from `system.init`, with frozen parts loaded.
        key: typed key; phase p uses fold_in(key, p).
        dataset: where the samples come from.
        options: see `Options`.
        engine: what to run on; None = pmap on all local devices.
        checkpointer: `workdir.checkpoint.Checkpointer`; the fit goes on from the newest
            checkpoint it holds, with the same bits as if it had never stopped.
        log: `workdir.log.Log`.

    Raises:
        ValueError: a field that the system needs is missing, a split is empty, the
            batch size does not suit the devices, or a checkpoint or artifact does not
            fit.
        MemoryLimitError: a bank fits neither host nor devices; the figures are named.
        NonFiniteError: the loss stays infinite or undefined.
        Preempted: SIGTERM or SIGINT came; the position is saved.
    """
    engine = engines.make_engine() if engine is None else engine
    check_artifacts(system, options)
    system = count_steps(system, dataset, options.batch_size)
    position = None
    if checkpointer is not None:
        position = restore(system, state, checkpointer)
    position = position or Position(state)
    begun = f"step {position.step} of phase {position.phase}"
    processes.check_same("checkpoint to go on from", begun)
    processes.check_same("state to begin with", position[:1] + position[2:])
    with Interruption() as interruption:
        run = Run(system, dataset, options, engine, checkpointer, log, interruption)
        check_data(run, system.phases[position.phase :])
        for index in range(position.phase, len(system.phases)):
            started = time.monotonic()
            state = run_phase(run, position, jax.random.fold_in(key, index))
            position = Position(state, index + 1)
            run.save(position)
            run.write(
                kind="phase",
                phase=system.phases[index].name,
                seconds=time.monotonic() - started,
            )
    return position.state


def count_steps(system: System, dataset: Dataset, batch_size: int) -> System:
    """Returns the system with all passes over a source counted in steps."""

    def counted(phase):
        if not isinstance(phase, Train) or phase.epochs is None:
            return phase
        rows = phase.epochs * dataset.size(phase.source)
        return phase._replace(steps=-(-rows // batch_size), epochs=None)

    return system._replace(phases=tuple(map(counted, system.phases)))


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
    """Runs, or loads, the phase of a position and returns the state after it."""
    phase, state, options = (
        run.system.phases[position.phase],
        position.state,
        run.options,
    )
    artifact = phase.artifact
    if is_loaded(phase, options):
        from ad3d_jax.features import weights

        tree = weights.load(options.artifacts[artifact.name], artifact.get(state))
        return artifact.put(state, tree)
    if isinstance(phase, Train):
        state = _train(run, position, key)
    else:
        state = gather(run, position, key)
    saved = artifact is not None and artifact.name in options.save_artifacts
    if saved and processes.is_first():
        from ad3d_jax.features import weights

        weights.save(options.save_artifacts[artifact.name], artifact.get(state))
    return state


def is_loaded(phase: Train | Gather, options: Options) -> bool:
    """Returns whether a file stands for the phase."""
    return phase.artifact is not None and phase.artifact.name in options.artifacts


def _train(run: Run, position: Position, key: Array) -> State:
    """Runs a Train phase from where it stands."""
    phase, state, options = (
        run.system.phases[position.phase],
        position.state,
        run.options,
    )
    engine, name = run.engine, phase_name(run, phase)
    carry = begin(phase, state) if position.carry is None else position.carry
    start = position.step
    batches = run.dataset.endless(phase.source, options.batch_size, options.seed, start)
    if phase.cache is not None:
        batches = with_features(batches, features_of(run, phase, state, key))
    compiled = compilation.compile_step(
        engine, train_step(phase, options.max_grad_norm), name=name
    )
    key, fixed = engines.replicate(engine, (key, fixed_part(state)))
    carry = engines.replicate(engine, carry, copy=True)

    def advance():
        nonlocal carry
        batch = next(batches)
        carry, report = compiled(key, fixed, carry, engines.split(engine, batch))
        return (batch.id,), report

    account = Account(name, phase.steps, options.batch_size, options, run.log)
    run_steps(
        run,
        name,
        Monitor(name, (start, phase.steps), (account,), options),
        range(start + 1, phase.steps + 1),
        advance,
        lambda: run.save(Position(state, position.phase, carry)),
    )
    params, extra = jax.device_put(jax.device_get((carry.params, carry.extra)))
    return state._replace(params=params, extra=extra)


def check_data(run: Run, phases) -> None:
    """Checks the first batch of every split that the phases read."""
    due = [phase for phase in phases if not is_loaded(phase, run.options)]
    for source, needs in dict.fromkeys((p.source, _needs(run, p)) for p in due):
        if run.dataset.size(source) < 1:
            raise ValueError(
                f"split {source} holds no samples to fit {run.system.name}"
            )
        batch = next(iter(run.dataset.ordered(source, run.options.batch_size, 0)))
        check_fields(run.system.name, needs, batch, "fit")
        engines.check_divisible(run.engine, batch)


def _needs(run: Run, phase: Train | Gather) -> tuple[str, ...]:
    """Returns the fields that a phase reads from its source."""
    needs = phase.needs if isinstance(phase, Train) else None
    return run.system.needs_fit if needs is None else needs


def check_artifacts(system: System, options: Options) -> None:
    """Checks that every artifact that the options name exists in the system."""
    known = [p.artifact.name for p in system.phases if p.artifact is not None]
    for name in (*options.artifacts, *options.save_artifacts):
        if name not in known:
            raise ValueError(
                f"system {system.name} has no artifact {name!r}; it has: "
                + (", ".join(known) or "none")
            )
