"""Sum phases: statistics of all samples, added on the devices."""

from collections import deque
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, State, Tree, without_truth
from ad3d_jax.devices import compilation, engines, memory
from ad3d_jax.fit.cache import feeding
from ad3d_jax.fit.monitor import STEPS_IN_FLIGHT
from ad3d_jax.fit.positions import Position
from ad3d_jax.fit.run import Run, phase_name, stop_if_asked
from ad3d_jax.fit.step import weighed

EMIT, FINISH = 0, 1  # keys of a phase


class Sums(NamedTuple):
    """Sums so far: what float32 holds of them, and the rest."""

    high: Tree
    low: Tree


def add_up(run: Run, position: Position, key: Array) -> State:
    """Runs a Sum phase and returns the state that it finishes.

    Neither batches nor devices change the sums by more than the rounding of those that
    a batch emits.

    Raises:
        ValueError: a sum is not finite.
        MemoryLimitError: the sums fit neither devices nor host, or the banks that the
            state holds fit no device.
        Preempted: the process was asked to stop.
    """
    phase, state = run.system.phases[position.phase], position.state
    sums = total(run, position.phase, state, jax.random.fold_in(key, EMIT))
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(sums)):
        raise ValueError(f"phase {phase_name(run, phase)}: a sum is not finite")
    return phase.finish(jax.random.fold_in(key, FINISH), state, sums)


def total(run: Run, index: int, state: State, key: Array) -> Tree:
    """Returns what all samples emit together in phase `index`, float64 on the host."""
    phase, engine, size = run.system.phases[index], run.engine, run.options.batch_size
    name, source = phase_name(run, phase), phase.source

    feed = feeding(run, phase, state)

    def emit(key, state, batch):
        batch = feed.complete(state, batch)
        return phase.emit(key, state, weighed(phase.weigh, state, batch))

    def add(key, state, sums, batch, across):
        emitted = jax.tree.map(across.sum, emit(key, state, batch))
        return plus(sums, emitted), across.sum(jnp.sum(batch.weight))

    compiled = compilation.compile_step(engine, add, name=name)
    first = without_truth(next(feed.extend(run.dataset.ordered(source, size, 0))))
    emitted = jax.eval_shape(emit, key, state, first)
    memory.check_sums(name, emitted, run.limits())
    sums = nothing(emitted)
    split = memory.banks_to_split(name, run.system.sharded, state, run.limits())
    key, state = engines.replicate(engine, key), engines.place(engine, state, split)
    sums, under_way = engines.replicate(engine, sums), deque()
    with run.bar(name, source) as bar:
        for batch in feed.extend(run.dataset.ordered(source, size, 0)):
            sums, done = compiled(key, state, sums, engines.split(engine, batch))
            under_way.append(done)
            if len(under_way) > STEPS_IN_FLIGHT:
                jax.block_until_ready(under_way.popleft())
            bar.update(int(np.count_nonzero(batch.weight)))
            stop_if_asked(run, name)
    high, low = jax.device_get(sums)
    return jax.tree.map(lambda x, y: np.float64(x) + np.float64(y), high, low)


def nothing(emitted: Tree) -> Sums:
    """Returns the sums of no samples, for what is emitted: float32 or whole numbers."""

    def zeros(x) -> np.ndarray:
        whole = jnp.issubdtype(x.dtype, jnp.integer)
        return np.zeros(x.shape, x.dtype if whole else np.float32)

    return Sums(jax.tree.map(zeros, emitted), jax.tree.map(zeros, emitted))


def plus(sums: Sums, more: Tree) -> Sums:
    """Returns the sums with more added, as if float32 had twice its digits."""
    more = jax.tree.map(lambda x, like: x.astype(like.dtype), more, sums.high)

    def rounded(high: Array, low: Array, new: Array) -> tuple[Array, Array]:
        after = high + new
        part = after - high
        rest = low + (high - (after - part)) + (new - part)  # Knuth's TwoSum
        whole = after + rest
        return whole, rest - (whole - after)

    pairs = jax.tree.map(rounded, sums.high, sums.low, more)
    return Sums(*jax.tree.transpose(jax.tree.structure(more), None, pairs))
