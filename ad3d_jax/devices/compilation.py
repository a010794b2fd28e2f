"""Compiled functions of an engine: steps, maps over rows, slices of rows, members.

Their arguments lie where `devices.engines` puts them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from ad3d_jax.base import Array, Batch, Tree
from ad3d_jax.devices import engines, processes
from ad3d_jax.devices.engines import AXIS, TOGETHER, Engine, across, join, split
from ad3d_jax.ops.knn import Bank

TRACES_TOLERATED = 2


class Compiled:
    """A compiled function that counts how often it was traced.

    A function that is traced again and again loses minutes without a word, so the
    third trace is reported.
    """

    def __init__(
        self,
        name: str,
        function: Callable,
        transform: Callable,
        arrange: Callable = lambda *arguments: arguments,
    ):
        self.name = name
        self.traces = 0
        self.arrange = arrange  # from the arguments of a call to the function's

        def counted(*arguments):
            self.traces += 1
            if self.traces == TRACES_TOLERATED + 1:
                logging.warning(
                    "%s is traced for the third time: a shape, a dtype or a Python "
                    "number changes between calls, and each change compiles anew",
                    name,
                )
            return function(*arguments)

        self.function = transform(counted)  # of what `arrange` returns

    def __call__(self, *arguments):
        """Runs the function."""
        arranged = self.arrange(*arguments)
        if not self.traces and jax.process_count() > 1:
            # A process that runs times out after 30 s while another one compiles.
            self.function.lower(*arranged).compile()
            processes.wait()
        return self.function(*arranged)

    def trace(self, *arguments) -> jax.stages.Traced:
        """Returns the program that a call runs; one that was called is not traced."""
        return self.function.trace(*self.arrange(*arguments))


def zero_padding(batch: Batch) -> Batch:
    """Returns the batch with zeros in all fields of the rows of weight 0.

    Selected, not multiplied, so that no NaN survives, in a gradient neither.
    """
    real = batch.weight > 0

    def clear(x: Array) -> Array:
        keep = real.reshape(real.shape + (1,) * (x.ndim - 1))
        return jnp.where(keep, x, jnp.zeros_like(x))

    return jax.tree.map(clear, batch)


def compile_step(
    engine: Engine, function: Callable, donate: bool = True, name: str = "step"
) -> Compiled:
    """Compiles `function(key, fixed, carry, batch, across) -> (carry, report)`.

    The result is called as (key, fixed, carry, batch) with replicated key, fixed and
    carry (`replicate`) and a batch from `split`; it gives replicated trees. The
    function sees the rows of its own device with the padding zeroed and must return the
    same on every device. With `donate` the memory of `carry` is reused for the result.
    """

    def step(shared, carry, mapped):
        key, fixed, batch = _joined(shared, mapped)
        return function(key, fixed, carry, zero_padding(batch), across(engine))

    def arrange(key, fixed, carry, batch):
        shared, mapped = _divided(key, fixed, batch)
        return shared, carry, mapped

    split = (False, False, True)
    transform = partial(
        engines.transform, engine, split=split, result=False, donate=donate
    )
    return Compiled(name, step, transform, arrange)


def compile_map(engine: Engine, function: Callable, name: str = "map") -> Compiled:
    """Compiles `function(key, state, batch) -> tree of [rows, ...]`, e.g. a score.

    The result is called as (key, state, batch) with a replicated key, a state that is
    replicated or from `place`, and a batch from `split`; it gives per-row results on
    the devices, for `join`, of several processes to each those of all rows. The
    function sees the rows of its own device with the padding zeroed.
    """

    def rows(shared, mapped):
        key, state, batch = _joined(shared, mapped)
        found = function(key, state, zero_padding(batch))
        if engine.alone:
            return found
        return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS), found)

    transform = partial(
        engines.transform, engine, split=(False, True), result=engine.alone
    )
    return Compiled(name, rows, transform, _divided)


def compile_rows(engine: Engine, function: Callable, name: str = "rows") -> Compiled:
    """Compiles `function(data, carry, across) -> carry`, e.g. a slice of a choice.

    The result is called as (carry, data) with a replicated carry and data from
    `split_rows`, and gives a replicated carry. The function sees its own device's rows
    and must return the same on every device.
    """

    def rows(carry, data):
        return function(data, carry, across(engine))

    transform = partial(engines.transform, engine, split=(False, True), result=False)
    return Compiled(name, rows, transform)


def compile_members(
    engine: Engine, function: Callable, donate: bool = True, name: str = "members"
) -> Compiled:
    """Compiles `function(shared, carry, own) -> (carry, report)` for many members.

    The result is called with a replicated `shared`, and with `carry` and `own` of all
    members from `split_members`; it gives both trees of all members likewise, for
    `join`. A member is one device's alone. With `donate` the memory of `carry` is
    reused for the result.
    """

    def members(shared, carry, own):
        return jax.vmap(function, in_axes=(None, 0, 0))(shared, carry, own)

    split = (False, True, True)
    transform = partial(
        engines.transform, engine, split=split, result=True, donate=donate
    )
    return Compiled(name, members, transform)


def _divided(key: Array, state: Tree, batch: Batch) -> tuple[Tree, Tree]:
    """Returns (what every device sees, what is split): split banks go by the batch.

    Key and state travel as one argument: pmap mistakes its axes when an argument is an
    empty tree and the numbers of leaves and of arguments happen to agree.
    """
    memory = getattr(state, "memory", {})
    memory = memory if isinstance(memory, Mapping) else {}
    banks = {
        name: entry
        for name, entry in memory.items()
        if isinstance(entry, Bank) and entry.across is TOGETHER
    }
    if banks:
        rest = {name: entry for name, entry in memory.items() if name not in banks}
        state = state._replace(memory=rest)
    return (key, state), (batch, banks)


def _joined(shared: Tree, mapped: Tree) -> tuple[Array, Tree, Batch]:
    """Inverts `_divided`."""
    (key, state), (batch, banks) = shared, mapped
    if banks:
        state = state._replace(memory={**state.memory, **banks})
    return key, state, batch


def map_rows(
    engine: Engine,
    compiled: Compiled,
    key: Array,
    state: Tree,
    batches: Iterable[Batch],
) -> Iterator[tuple[Batch, Tree]]:
    """Yields (host batch, host rows) in order, both without padding.

    Args:
        engine: where to run.
        compiled: from `compile_map`.
        key: replicated key.
        state: replicated state.
        batches: host batches; padding at will.

    One batch is under way while the caller works on the one before.
    """
    waiting = None
    for batch in batches:
        begun = (batch, compiled(key, state, split(engine, batch)))
        if waiting is not None:
            yield _without_padding(*waiting)
        waiting = begun
    if waiting is not None:
        yield _without_padding(*waiting)


def _without_padding(batch: Batch, rows: Tree) -> tuple[Batch, Tree]:
    """Returns the real rows of a host batch and of what was computed from it."""
    rows = join(rows)
    real = np.asarray(batch.weight) > 0
    if real.all():
        return batch, rows
    return jax.tree.map(lambda x: np.asarray(x)[real], (batch, rows))
