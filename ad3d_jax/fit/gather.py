"""Gather phases: one ordered pass, the choice of rows in slices, and absorption."""

import time
from functools import partial

import jax
import numpy as np

from ad3d_jax.base import Array, Gather, State, Tree, without_truth
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.fit.monitor import Preempted, Progress
from ad3d_jax.fit.positions import Position, in_containers
from ad3d_jax.fit.run import Run, ordered_pass, phase_name, with_cache

# Of all time, at most this part goes into checkpoints while rows are chosen.
SAVING_SHARE = 0.1


def gather(run: Run, position: Position, key: Array) -> State:
    """Runs a Gather phase and returns the state with its memory.

    Raises:
        MemoryLimitError: what the phase plans does not fit.
        Preempted: the process was asked to stop; a choice of rows that had begun is
            saved, while samples are passed over anew.
    """
    phase, state = run.system.phases[position.phase], position.state
    emit_key, absorb_key, select_key = (jax.random.fold_in(key, i) for i in range(3))
    account = announce(run, phase, state)
    rows = emitted(run, phase, state, emit_key)
    if phase.select is not None:
        rows = chosen(run, position, rows, select_key, account)
    if run.interruption.wanted():
        name = phase_name(run, phase)
        raise Preempted(f"stopped in phase {name} before its rows were absorbed")
    return phase.absorb(absorb_key, state, rows)


def announce(run: Run, phase: Gather, state: State) -> str:
    """Says what the phase will take, before anything is compiled; returns the line.

    Raises:
        MemoryLimitError: it does not fit.
    """
    name = phase_name(run, phase)
    if phase.plan is None:
        return name
    batch = next(iter(run.dataset.ordered(phase.source, run.options.batch_size, 0)))
    emit, batch = with_cache(phase, phase.emit), without_truth(batch)
    size = run.dataset.size(phase.source)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype),
        jax.eval_shape(emit, jax.random.key(0), state, batch),
    )
    planned, limits = phase.plan(state, shapes), run.limits()
    account = memory.describe(name, planned, limits)
    run.write(kind="plan", phase=phase.name, **memory.figures(planned, limits))
    memory.check(name, planned, limits)
    memory.say(account)
    return account


def emitted(run: Run, phase: Gather, state: State, key: Array) -> Tree:
    """Returns the rows of all samples on the host, in manifest order.

    Raises:
        ValueError: the split has not the size that it says.
        Preempted: the process was asked to stop.
    """
    name, size = phase_name(run, phase), run.dataset.size(phase.source)
    emit = with_cache(phase, phase.emit)
    rows, first = None, 0
    for batch, part in ordered_pass(run, name, phase.source, emit, state, key):
        last = first + len(batch.weight)
        if rows is None:  # in full at once: lists that are joined take twice as much
            rows = jax.tree.map(lambda x: np.empty((size, *x.shape[1:]), x.dtype), part)
        if last <= size:
            jax.tree.map(partial(_fill, first), rows, part)
        first = last
    if first != size:
        raise ValueError(
            f"split {phase.source} says that it holds {size} samples, but gives {first}"
        )
    return rows


def chosen(run: Run, position: Position, rows: Tree, key: Array, account: str) -> Tree:
    """Returns the rows that are kept, on the host; saves its progress on the way.

    Args:
        run: the fit.
        position: of the phase; with the choice as far as it is known.
        rows: of all samples.
        key: of `Select.prepare`.
        account: what was planned, should memory run out.

    Raises:
        ValueError: a saved choice does not fit, or a slice gets nowhere.
        MemoryLimitError: the memory of a device ran out.
        Preempted: the process was asked to stop.
    """
    phase, engine = run.system.phases[position.phase], run.engine
    select, name = phase.select, f"{phase_name(run, phase)} (choice of rows)"
    data, carry = jax.device_get(select.prepare(key, position.state, rows))
    if position.choice is not None:
        carry = in_containers("the choice of rows", carry, position.choice)
    carry = processes.arrays_of_first(carry)
    data, carry = engines.split_rows(engine, data), engines.replicate(engine, carry)
    advance = compilation.compile_rows(engine, select.advance, name=name)
    done, total = select.done(carry)
    progress = Progress(name, phase.name, done, total, run.options, run.log)
    saved_at, took = time.monotonic(), 0.0
    try:
        while done < total:
            carry, data = memory.with_smaller_chunks(
                partial(_slice, advance, carry), data, account
            )
            before, (done, total) = done, select.done(carry)
            if done <= before:
                raise ValueError(f"{name} stands still at {done} of {total}")
            progress.show(done)
            stop, now = run.interruption.wanted(), time.monotonic()
            pause = max(run.options.save_seconds, took / SAVING_SHARE)
            if stop or now - saved_at >= pause:
                run.save(position._replace(choice=jax.device_get(carry)))
                saved_at = time.monotonic()
                took = saved_at - now
            if stop:
                raise Preempted(f"stopped in {name} at {done} of {total}")
    finally:
        progress.close()
    return select.take(rows, jax.device_get(carry))


def _slice(advance: compilation.Compiled, carry: Tree, data: Tree) -> Tree:
    """Returns the carry after one slice, when it is there."""
    return jax.block_until_ready(advance(carry, data))


def _fill(first: int, whole: np.ndarray, part: np.ndarray) -> None:
    """Writes the part into the whole from row `first` on."""
    whole[first : first + len(part)] = part
