"""The steps of a Train phase for many members in one program."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import ALONE, Array, Batch, State, Train, without_truth
from ad3d_jax.devices import compilation, engines
from ad3d_jax.fit.cache import with_features
from ad3d_jax.fit.members import combine, partition, stack, unstack
from ad3d_jax.fit.phases import reads_cache, step_rows
from ad3d_jax.fit.positions import Position
from ad3d_jax.fit.run import Options, Run, phase_name
from ad3d_jax.fit.step import Carry, Report, begin, fixed_part, train_step


class Together:
    """A Train phase of several members, on the devices.

    Frozen parts, memory, keys and batches that are equal in all members are there once;
    the hyperparameters are each one's own, so that other values compile nothing anew.

    Args:
        runs: of the members; their systems' phases differ in steps alone.
        positions: where each stands; all in one phase, after as many steps or at the
            end of their own.
        keys: of the phase.
        options: of all.
        engine: the members are shared between its devices.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        positions: Sequence[Position],
        keys: Sequence[Array],
        options: Options,
        engine: engines.Engine,
    ):
        phases = [
            run.system.phases[position.phase]
            for run, position in zip(runs, positions, strict=True)
        ]
        states = [position.state for position in positions]
        steps = [phase.steps for phase in phases]
        self.name = f"{phase_name(runs[0], phases[0])}, {len(runs)} members"
        self.start, self.last = max(p.step for p in positions), max(steps)
        self._engine, self._count = engine, len(runs)
        self._batches = _batches(runs, phases[0], states, self.start)
        self.compiled = compilation.compile_members(
            engine, _member_step(phases, keys[0], options), name=self.name
        )
        parts = [
            (jax.random.key_data(key), fixed_part(state)._replace(hyper={}))
            for key, state in zip(keys, states, strict=True)
        ]
        shared, own = partition(parts)
        hyper = stack([state.hyper for state in states])
        patience = np.int32(options.patience)
        self._shared = engines.replicate(engine, (shared, patience))
        self._own = engines.split_members(
            engine, (own, hyper, np.array(steps, np.int32))
        )
        carries = [
            begin(phase, position.state) if position.carry is None else position.carry
            for phase, position in zip(phases, positions, strict=True)
        ]
        self._carry = engines.split_members(engine, stack(carries))

    def advance(self) -> tuple[Sequence[Array], Report]:
        """Does one step of all; returns the samples' ids of each, and the reports."""
        ids, common, each = next(self._batches)
        common = engines.replicate(self._engine, common)
        each = engines.split_members(self._engine, each)
        self._carry, report = self.compiled(
            (self._shared, common), self._carry, (self._own, each)
        )
        return ids, report

    def reports(self, report: Report) -> list[Report]:
        """Returns the report of each member."""
        return unstack(engines.join(report), self._count)

    def carries(self) -> list[Carry]:
        """Returns where each member stands, on the host."""
        return unstack(engines.join(self._carry), self._count)


def _member_step(phases: Sequence[Train], key: Array, options: Options) -> Callable:
    """Returns `(shared, carry, own) -> (carry, report)` for one member.

    A member stands still after its own last step, and once it was not finite for
    `patience` steps in a row. Where members differ in steps, as of classes that differ
    in size, the optimizer gets their number as an array.
    """
    impl = jax.random.key_impl(key)
    equal = len({phase.steps for phase in phases}) == 1

    def step(shared, carry: Carry, own) -> tuple[Carry, Report]:
        ((common, patience), rows), ((each, hyper, last), own_rows) = shared, own
        data, fixed = combine(common, each)
        batch = own_rows if rows is None else rows
        phase = phases[0] if equal else phases[0]._replace(steps=last)
        new, report = train_step(phase, options.max_grad_norm)(
            jax.random.wrap_key_data(data, impl=impl),
            fixed._replace(hyper=hyper),
            carry,
            compilation.zero_padding(batch),
            ALONE,
        )
        going = (carry.step < last) & (carry.bad < patience)
        kept = jax.tree.map(lambda new, old: jnp.where(going, new, old), new, carry)
        return kept, report._replace(bad=kept.bad)

    return step


def _batches(
    runs: Sequence[Run],
    phase: Train,
    states: Sequence[State],
    start: int,
) -> Iterator[tuple[list[Array], Batch | None, Batch | None]]:
    """Returns (ids of each member, the batch of all or None, else batches [K,B,...]).

    Members with the same samples in the same order have one stream.
    """
    streams, names = {}, []
    for run, state in zip(runs, states, strict=True):
        own, seed = None, run.options.seed
        if reads_cache(run.system, phase):
            own = run.cache.features(run, phase.source, state)
        names.append((id(run.dataset), seed, id(own)))
        if names[-1] not in streams:
            rows = step_rows(phase, run.options.batch_size)
            stream = run.dataset.endless(phase.source, rows, seed, start)
            streams[names[-1]] = stream if own is None else with_features(stream, own)

    def batches():
        while True:
            rows = {name: without_truth(next(x)) for name, x in streams.items()}
            ids = [rows[name].id for name in names]
            if len(rows) == 1:
                yield ids, rows[names[0]], None
            else:
                yield ids, None, stack([rows[name] for name in names])

    return batches()
