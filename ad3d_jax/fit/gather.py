"""Gather phases: one ordered pass, the choice of rows in slices, and absorption."""

import time
from collections.abc import Mapping
from functools import partial

import jax

from ad3d_jax.base import Array, Gather, Select, State, Tree, with_cache, without_truth
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.fit.cache import Feed, feeding
from ad3d_jax.fit.cache_keys import digest
from ad3d_jax.fit.monitor import Preempted, Progress
from ad3d_jax.fit.phases import reads_cache
from ad3d_jax.fit.positions import Position, in_containers
from ad3d_jax.fit.run import Run, fill, ordered_pass, phase_name

# Of all time, at most this part goes into checkpoints while rows are chosen.
SAVING_SHARE = 0.1
# Keys of a phase: what samples emit, absorption, then a choice each.
EMIT, ABSORB, SELECT = 0, 1, 2


def gather(run: Run, position: Position, key: Array) -> State:
    """Runs a Gather phase and returns the state with its memory.

    Raises:
        MemoryLimitError: what the phase plans does not fit.
        Preempted: the process was asked to stop; a choice of rows that had begun is
            saved, while samples are passed over anew.
        ValueError: a choice is of a name that is not emitted.
    """
    phase, state = run.system.phases[position.phase], position.state
    feed = feeding(run, phase, state)  # before memory is measured
    account = announce(run, phase, state)
    rows = emitted(run, phase, state, feed, jax.random.fold_in(key, EMIT))
    if phase.select is not None:
        rows = selected(run, position, rows, key, account)
    if run.interruption.wanted():
        name = phase_name(run, phase)
        raise Preempted(f"stopped in phase {name} before its rows were absorbed")
    return phase.absorb(jax.random.fold_in(key, ABSORB), state, rows)


def announce(run: Run, phase: Gather, state: State) -> str:
    """Says what the phase will take, before anything is compiled; returns the line.

    Raises:
        MemoryLimitError: it does not fit.
        ValueError: a choice is of a name that is not emitted.
    """
    name = phase_name(run, phase)
    if phase.plan is None and phase.select is None:
        return name
    batch = next(iter(run.dataset.ordered(phase.source, run.options.batch_size, 0)))
    size = run.dataset.size(phase.source)

    def emit(key, state, batch):
        if reads_cache(run.system, phase):
            batch = with_cache(run.system, state, batch)
        return phase.emit(key, state, batch)

    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype),
        jax.eval_shape(emit, jax.random.key(0), state, without_truth(batch)),
    )
    for leaf in phase.select or ():
        if not isinstance(shapes, Mapping) or leaf not in shapes:
            emits = sorted(shapes) if isinstance(shapes, Mapping) else "no mapping"
            raise ValueError(f"phase {name} chooses of {leaf!r}, but emits {emits}")
    if phase.plan is None:
        return name
    planned, limits = phase.plan(state, shapes), run.limits()
    account = memory.describe(name, planned, limits)
    run.write(kind="plan", phase=phase.name, **memory.figures(planned, limits))
    memory.check(name, planned, limits)
    memory.say(account)
    return account


def emitted(run: Run, phase: Gather, state: State, feed: Feed, key: Array) -> Tree:
    """Returns the rows of all samples on the host, in manifest order.

    Raises:
        ValueError: the source has not the size that it says.
        Preempted: the process was asked to stop.
    """
    name, source = phase_name(run, phase), phase.source

    def emit(key, state, batch):
        return phase.emit(key, state, feed.complete(state, batch))

    passed = ordered_pass(run, name, source, emit, state, key, feed.extend)
    return fill(passed, source, run.dataset.size(source))


def selected(
    run: Run, position: Position, rows: Mapping[str, Tree], key: Array, account: str
) -> dict[str, Tree]:
    """Returns the rows, of the leaves with a choice what is kept.

    Args:
        run: the fit.
        position: of the phase; with the choices as far as they are known.
        rows: of all samples, by the names that are emitted.
        key: of the phase.
        account: what was planned, should memory run out.

    Raises:
        ValueError: see `chosen`.
        MemoryLimitError: the memory of a device ran out.
        Preempted: the process was asked to stop.
    """
    kept = dict(rows)
    choices = run.system.phases[position.phase].select
    for number, (leaf, select) in enumerate(choices.items()):
        own = jax.random.fold_in(key, SELECT + number)
        position = chosen(run, position, leaf, kept[leaf], own, account)
        kept[leaf] = select.take(kept[leaf], position.choice[leaf])
    return kept


def chosen(
    run: Run, position: Position, leaf: str, rows: Tree, key: Array, account: str
) -> Position:
    """Returns the position with the choice of a leaf's rows made; saves on the way.

    Args:
        run: the fit.
        position: of the phase; with the choices as far as they are known.
        leaf: name of what is chosen of.
        rows: of all samples.
        key: of `Select.prepare`.
        account: what was planned, should memory run out.

    Raises:
        ValueError: a saved choice does not fit, or a slice gets nowhere.
        MemoryLimitError: the memory of a device ran out.
        Preempted: the process was asked to stop.
    """
    phase, engine = run.system.phases[position.phase], run.engine
    select: Select = phase.select[leaf]
    name, known = f"{phase_name(run, phase)} (choice of {leaf})", position.choice or {}

    def standing(carry: Tree) -> Position:
        return position._replace(choice={**known, leaf: jax.device_get(carry)})

    data, carry = jax.device_get(select.prepare(key, position.state, rows))
    place, store = _place(run, select, data, carry), run.cache.store
    if leaf in known:
        carry = in_containers(f"the choice of {leaf}", carry, known[leaf])
    elif (other := store.choice(place)) is not None:
        carry = select.onwards(carry, other)
    carry = processes.arrays_of_first(carry)
    data, carry = engines.split_rows(engine, data), engines.replicate(engine, carry)
    advance = compilation.compile_rows(engine, select.advance, name=name)
    done, total = select.done(carry)
    progress = Progress(name, phase.name, leaf, done, total, run.options, run.log)
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
                run.save(standing(carry))
                saved_at = time.monotonic()
                took = saved_at - now
            if stop:
                raise Preempted(f"stopped in {name} at {done} of {total}")
    finally:
        progress.close()
    end = standing(carry)
    store.keep_choice(place, done, end.choice[leaf])
    return end


def _place(run: Run, select: Select, data: Tree, carry: Tree) -> str | None:
    """Returns where later fits find a choice, None where it is of use to none."""
    done, total = select.done(carry)
    if not run.cache.store.lasting or select.onwards is None or done == total:
        return None
    return " ".join(digest(x) for x in jax.tree.leaves(data))


def _slice(advance: compilation.Compiled, carry: Tree, data: Tree) -> Tree:
    """Returns the carry after one slice, when it is there."""
    return jax.block_until_ready(advance(carry, data))
