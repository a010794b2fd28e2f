"""One system with its samples: what is costly is computed once for all clauses."""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import (
    Array,
    Batch,
    Phase,
    Scores,
    State,
    System,
    Train,
    Tree,
    scoring,
    without_truth,
)
from ad3d_jax.devices import compilation, engines
from ad3d_jax.fit.cache import Cache, feeding
from ad3d_jax.fit.fit import run_phase
from ad3d_jax.fit.monitor import Interruption
from ad3d_jax.fit.phases import count_steps, reads_cache
from ad3d_jax.fit.positions import Position
from ad3d_jax.fit.run import Options, Run
from ad3d_jax.fit.step import Carry, Report, batches_of_step, begin, fixed_part
from ad3d_jax.fit.step import train_step as step_of
from ad3d_jax.testing.float64 import run_in_float64, widened
from ad3d_jax.testing.samples import (
    MemoryDataset,
    PaddedDataset,
    make_batch,
    procedural_images,
)
from ad3d_jax.testing.strict import strict

ROWS = 4  # of a batch
SAMPLES = 6  # of the split that is fitted
PARTS = ("train", "gather", "sum", "score")
OPTIONS = Options(batch_size=ROWS, progress=False, log_every=10**6)

board = functools.partial(make_batch, size=32, rails=True)


@functools.cache
def engine(kind: str = "jit", devices: int = 1) -> engines.Engine:
    """Returns an engine on the first devices."""
    return engines.make_engine(kind, jax.devices()[:devices])


def key(number: int = 0) -> Array:
    """Returns one of many keys."""
    return jax.random.fold_in(jax.random.key(11), number)


class Trial:
    """A system at a size that fits in seconds, and the samples that it is tried on."""

    def __init__(
        self,
        make_system: Callable[[], System],
        make_batch: Callable[..., Batch] = board,
        *,
        stochastic: Collection[str] = (),
        rounding: float = 1e-6,
        sources: Mapping[str, Batch] | None = None,
    ):
        """Makes the samples and builds the system; nothing is compiled yet.

        Args: see `check_system`.

        Raises:
            ValueError: a stochastic part is unknown.
        """
        unknown = set(stochastic) - set(PARTS)
        if unknown:
            raise ValueError(
                f"stochastic: expected names of {', '.join(PARTS)}, found "
                f"{', '.join(sorted(unknown))}"
            )
        self.make_batch, self.rounding = make_batch, rounding
        self.stochastic = frozenset(stochastic)
        self.batch, samples = make_batch(ROWS), make_batch(SAMPLES)
        system = strict(make_system())
        splits = {phase.source: samples for phase in system.phases}
        if "images" in splits:
            splits["images"] = procedural_images(32, samples.rgb.shape[1])
        splits |= {"train": samples, "validation": self.batch, **(sources or {})}
        self.data = MemoryDataset(splits)
        # The contract does not depend on how many rows a batch has.
        phases = (
            phase._replace(batch_size=None) if isinstance(phase, Train) else phase
            for phase in system.phases
        )
        system = system._replace(phases=tuple(phases))
        self.system = count_steps(system, self.data, ROWS)
        self.score = compilation.compile_map(engine(), scoring(self.system))
        self._states: list[State] = []
        self._steps: dict[tuple[int, int], compilation.Compiled] = {}

    @functools.cached_property
    def init(self) -> Callable[[Array, Batch], State]:
        """`system.init` as one program."""
        return jax.jit(self.system.init)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, height and width of the samples."""
        images = (self.batch.rgb, self.batch.xyz, self.batch.depth)
        return next(x.shape[:3] for x in images if x is not None)

    @property
    def fitted(self) -> State:
        """The state after all phases."""
        return self.before(len(self.system.phases))

    def before(self, index: int) -> State:
        """Returns the state that phase `index` begins with."""
        if not self._states:
            self._states.append(self.init(key(), without_truth(self.batch)))
        while len(self._states) <= index:
            number = len(self._states) - 1
            self._states.append(self._after(number, self._states[number]))
        return self._states[index]

    def _after(self, index: int, state: State) -> State:
        """Returns the state after phase `index`; Train phases by the steps at hand."""
        phase, own = self.system.phases[index], key(index)
        run = self._run(engine(), self.system, self.data, OPTIONS)
        if not isinstance(phase, Train):
            return run_phase(run, Position(state, index), own)
        rows = ROWS * batches_of_step(phase)
        batches = self.data.endless(phase.source, rows, OPTIONS.seed, 0)
        batches = islice(feeding(run, phase, state).extend(batches), phase.steps)
        carry, _ = self.stepped(index, state, batches, own)
        return state._replace(params=carry.params, extra=carry.extra)

    def phases(self, kind: type[Phase]) -> Iterator[tuple[int, Phase, State]]:
        """Yields (index, phase, state before it) of the phases of a kind."""
        for index, phase in enumerate(self.system.phases):
            if isinstance(phase, kind):
                yield index, phase, self.before(index)

    def rows(self, phase: Train, count: int, seed: int = 0) -> Batch:
        """Returns `count` rows for each batch that a step reads."""
        return self.make_batch(count * batches_of_step(phase), seed=seed)

    def read(self, phase: Phase, state: State, batch: Batch) -> Batch:
        """Returns a host batch as the phase reads it."""
        batch = without_truth(batch)
        if not reads_cache(self.system, phase):
            return batch
        clean = compilation.zero_padding(jax.tree.map(jnp.asarray, batch))
        cached = jax.device_get(self._cache(state, clean))
        return batch._replace(extras={**batch.extras, **cached})

    @functools.cached_property
    def _cache(self) -> Callable[[State, Batch], Mapping[str, Array]]:
        return jax.jit(self.system.cache)

    def step(self, index: int, rows: int) -> compilation.Compiled:
        """Returns the compiled step of a Train phase on one device."""
        if (index, rows) not in self._steps:
            function = step_of(self.system.phases[index])
            self._steps[index, rows] = compilation.compile_step(engine(), function)
        return self._steps[index, rows]

    def arguments(
        self, index: int, state: State, batch: Batch, key: Array, where=None
    ) -> tuple[Array, State, Carry, Batch]:
        """Returns what a compiled step takes, with the carry that the phase begins."""
        where = engine() if where is None else where
        key, fixed = engines.replicate(where, (key, fixed_part(state)))
        carry = begin(self.system.phases[index], state)
        carry = engines.replicate(where, carry, copy=True)
        return key, fixed, carry, engines.split(where, batch)

    def stepped(
        self, index: int, state: State, batches: Iterable[Batch], key: Array
    ) -> tuple[Carry, list[Report]]:
        """Returns (carry, reports) on the host after a step for each batch."""
        carry, reports, first = None, [], None
        for batch in batches:
            if carry is None:
                first = self.arguments(index, state, batch, key)
                carry = first[2]
            step = self.step(index, len(batch.weight))
            batch = engines.split(engine(), batch)
            carry, report = step(first[0], first[1], carry, batch)
            reports.append(jax.device_get(report))
        if carry is None:
            carry = begin(self.system.phases[index], state)
        return jax.device_get(carry), reports

    def step_in_float64(
        self, index: int, state: State, batch: Batch, key: Array
    ) -> tuple[Carry, Report]:
        """Returns (carry, report) of one step that is computed in float64."""
        step = self.step(index, len(batch.weight))
        return run_in_float64(step, *self.arguments(index, state, batch, key))

    def step_of_devices(
        self, index: int, state: State, batch: Batch, key: Array, devices: int
    ) -> tuple[Carry, Report]:
        """Returns (carry, report) of one step of several devices, in float64."""
        where = engine("pmap", devices)
        step = self._step_of_devices(index, devices)
        with jax.enable_x64(True):
            arguments = jax.tree.map(_doubled, (key, state, batch))
            own, state, batch = arguments
            taken = self.arguments(index, state, batch, own, where)
            return jax.device_get(step(*taken))

    @functools.cache  # noqa: B019 (trials live as long as a test run)
    def _step_of_devices(self, index: int, devices: int) -> compilation.Compiled:
        function = widened(step_of(self.system.phases[index]))
        return compilation.compile_step(engine("pmap", devices), function)

    def scores_of_devices(
        self, batch: Batch, devices: int, split: Collection[str] = ()
    ) -> Scores:
        """Returns the scores of the fitted state on some devices, in float64."""
        where, score = engine("pmap", devices), self._score_of_devices(devices)
        arguments = key(), self.fitted, batch
        with jax.enable_x64(True):
            own, state, batch = jax.tree.map(_doubled, arguments)
            return self.scored(where, score, batch, state, own, split)

    @functools.cache  # noqa: B019 (trials live as long as a test run)
    def _score_of_devices(self, devices: int) -> compilation.Compiled:
        score = scoring(self.system)
        wide = widened(lambda key, state, batch, _: score(key, state, batch))
        return compilation.compile_map(
            engine("pmap", devices), lambda *arguments: wide(*arguments, None)
        )

    def scores(
        self, batch: Batch, state: State | None = None, key: Array | None = None
    ) -> Scores:
        """Returns the scores of ROWS rows on the host; all by one program."""
        return self.scored(engine(), self.score, batch, state, key)

    def half_scores(self, batch: Batch) -> Scores:
        """Returns the scores of half as many rows, by a program of their own."""
        return self.scored(engine(), self._half, batch)

    @functools.cached_property
    def _half(self) -> compilation.Compiled:
        return compilation.compile_map(engine(), scoring(self.system))

    def scored(
        self,
        where: engines.Engine,
        compiled: compilation.Compiled,
        batch: Batch,
        state: State | None = None,
        own: Array | None = None,
        split: Collection[str] = (),
    ) -> Scores:
        """Returns scores on the host, of the fitted state and one key unless named."""
        state = self.fitted if state is None else state
        own = engines.replicate(where, key() if own is None else own)
        placed = engines.place(where, state, split)
        return engines.join(compiled(own, placed, engines.split(where, batch)))

    def run(self, where: engines.Engine, source: str, batch: Batch, size: int) -> Run:
        """Returns what drivers pass over a source that is `batch`, by `size` rows."""
        options = OPTIONS._replace(batch_size=size)
        return self._run(where, self.system, PaddedDataset({source: batch}), options)

    def _run(self, where, system, data, options) -> Run:
        return Run(system, data, options, where, None, None, Interruption(), Cache())

    def after(
        self, index: int, state: State, batch: Batch, size: int, where=None, own=None
    ) -> Tree:
        """Returns the memory after a Gather or Sum phase over `batch`, by `size`."""
        where = engine() if where is None else where
        run = self.run(where, self.system.phases[index].source, batch, size)
        own = key() if own is None else own
        return run_phase(run, Position(state, index), own)


def _doubled(x: Array) -> Array:
    """Returns host arrays, those of floating-point numbers in float64."""
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    x = np.asarray(x)
    return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x
