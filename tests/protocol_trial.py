"""What the protocol suite runs systems with: trials, single steps, comparisons."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from reference_systems import MemoryDataset

from ad3d_jax.base import Batch, scoring, without_truth
from ad3d_jax.devices import compilation, engines
from ad3d_jax.fit import gather
from ad3d_jax.fit.cache import Cache
from ad3d_jax.fit.fit import Options, count_steps, fit
from ad3d_jax.fit.monitor import Interruption
from ad3d_jax.fit.phases import reads_cache
from ad3d_jax.fit.positions import Position
from ad3d_jax.fit.run import Run
from ad3d_jax.fit.step import begin, fixed_part, train_step
from ad3d_jax.synthesis.textures import procedural_textures

ROWS = 4
KEY = jax.random.key(11)
OPTIONS = Options(batch_size=ROWS, progress=False, log_every=1000)


@functools.cache
def engine(kind="jit", devices=1):
    return engines.make_engine(kind, jax.devices()[:devices])


class Trial:
    """One system with its data; what is costly is computed once."""

    def __init__(self, row):
        self.row, self.batch = row, row.make_batch(ROWS)
        samples = row.make_batch(6)
        splits = {"train": samples, "validation": self.batch}
        if any(phase.source == "images" for phase in row.make().phases):
            splits["images"] = images(32, samples.rgb.shape[1])
        self.data = MemoryDataset(splits)
        self.system = count_steps(row.make(), self.data, ROWS)
        self.initial = self.system.init(KEY, without_truth(self.batch))
        self.score = compilation.compile_map(engine(), scoring(self.system))

    @functools.cached_property
    def fitted(self):
        return fit(self.system, self.initial, KEY, self.data, OPTIONS, engine())

    @property
    def ready(self):
        """Returns a state that can score.

        Fitted, since a memory must be filled, and since a normalisation of what
        untrained networks render, next to a constant, makes rounding large.
        """
        return self.fitted

    @functools.cache  # noqa: B019 (trials live as long as the session)
    def before(self, index):
        """Returns the state with which phase `index` begins."""
        if index == 0:
            return self.initial
        shorter = self.system._replace(phases=self.system.phases[:index])
        return fit(shorter, self.initial, KEY, self.data, OPTIONS, engine())

    def phases(self, kind):
        """Yields (index, phase, state before it)."""
        for index, phase in enumerate(self.system.phases):
            if isinstance(phase, kind):
                yield index, phase, self.before(index)

    def scores(self, batch, state=None, key=KEY):
        """Returns host scores; one trace for all batches of ROWS rows."""
        state = self.ready if state is None else state
        return scored(engine(), self.score, batch, state, key)

    @functools.cache  # noqa: B019
    def step(self, index):
        """Returns the compiled training step of a phase on one device."""
        return compilation.compile_step(engine(), train_step(self.system.phases[index]))

    def read(self, phase, state, batch):
        """Returns the batch as the phase reads it."""
        batch = without_truth(batch)
        if not reads_cache(self.system, phase):
            return batch
        clean = compilation.zero_padding(jax.tree.map(jnp.asarray, batch))
        cached = jax.device_get(jax.jit(self.system.cache)(state, clean))
        return batch._replace(extras={**batch.extras, **cached})

    def stepped(self, where, compiled, phase, state, batches, key=KEY):
        """Returns (carry, reports) of one step a batch."""
        key, fixed = engines.replicate(where, (key, fixed_part(state)))
        carry, reports = engines.replicate(where, begin(phase, state), copy=True), []
        for batch in batches:
            batch = engines.split(where, self.read(phase, state, batch))
            carry, report = compiled(key, fixed, carry, batch)
            reports.append(jax.device_get(report))
        return jax.device_get(carry), reports


def images(count, size):
    """Returns procedural images, as a pretraining reads them."""
    textures = np.asarray(procedural_textures(KEY, count, size))
    return Batch(
        rgb=textures.astype(np.float32) / 255,
        weight=np.ones(count, np.float32),
        id=np.arange(count, dtype=np.int32),
    )


@functools.cache
def trial_of(row):
    return Trial(row)


def scored(where, compiled, batch, state, key=KEY, split=()):
    key, state = engines.replicate(where, key), engines.place(where, state, split)
    return engines.join(compiled(key, state, engines.split(where, batch)))


def with_plain_descent(phase):
    """Returns the phase with steps of minus the gradient, which shows the gradient.

    Adam divides by the gradient's size, which makes rounding errors large where the
    gradient is next to nothing.
    """
    updates = [
        u._replace(optimizer=lambda _h, _s: optax.sgd(1.0)) for u in phase.updates
    ]
    return phase._replace(updates=tuple(updates))


class Padded(MemoryDataset):
    """A dataset that holds rows of weight 0, too."""

    def size(self, split):
        return np.count_nonzero(self.splits[split].weight)

    def ordered(self, split, batch_size, start):
        return MemoryDataset(self.splits).ordered(split, batch_size, start)


def run_of(where, system, index, batch, size):
    """Returns what the drivers pass to phase `index` in batches of `size`."""
    data = Padded({system.phases[index].source: batch})
    options = OPTIONS._replace(batch_size=size)
    return Run(system, data, options, where, None, None, Interruption(), Cache())


def gathered(where, system, index, state, batch, size):
    """Returns the rows that a Gather phase emits in batches of `size`."""
    run = run_of(where, system, index, batch, size)
    return gather.emitted(run, system.phases[index], state, KEY)


def absorbed(where, system, index, state, batch, size, key=KEY):
    """Returns the state after a Gather phase, by batches of `size`."""
    run = run_of(where, system, index, batch, size)
    return gather.gather(run, Position(state, index), key)


def degenerate(batch):
    """Returns rows: as measured, all zero, nothing measured, saturated."""

    def spoil(name, x):
        x = np.array(x)
        x[1] = 0
        if name in ("xyz", "depth", "valid", "foreground", "extras"):
            x[2] = 0
        if x.dtype != bool:
            x[3] = 1
        return x

    images = {n: getattr(batch, n) for n in ("rgb", "xyz", "depth", "valid")}
    images["foreground"] = batch.foreground
    spoilt = {n: spoil(n, x) for n, x in images.items() if x is not None}
    extras = {n: spoil("extras", x) for n, x in batch.extras.items()}
    return batch._replace(**spoilt, extras=extras)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def near(found, expected, tolerance):
    """Asserts closeness relative to the largest magnitude of each leaf."""

    def check(one, other):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        scale = max(np.abs(other).max(initial=0), 1e-3)
        np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=tolerance)

    jax.tree.map(check, found, expected)


def near_scores(found, expected, tolerance=1e-6):
    """Asserts that scores agree, and that what only illustrates them does to 1e-5."""
    near((found.map, found.image), (expected.map, expected.image), tolerance)
    near(found.parts, expected.parts, 1e-5)
    same(found.match, expected.match)


def same_step(found, expected, start, tolerance=5e-5):
    """Asserts that two (carry, reports) of plain descent from `start` agree.

    Gradients are compared as one vector: those of a bias before a normalisation are
    nothing but rounding.
    """
    (carry, reports), (other, truth) = found, expected

    def flat(tree):
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])

    step = flat(other.params) - flat(start.params)
    apart = np.linalg.norm(flat(carry.params) - flat(other.params))
    assert apart <= tolerance * np.linalg.norm(step)
    near(carry.extra, other.extra, 2 * tolerance)
    near([r.values for r in reports], [r.values for r in truth], tolerance)


def same_steps(pair, start, draws=20, needed=2):
    """Asserts that the two of `pair(key)` agree as `same_step` has it, for some keys.

    A ReLU or a maximum that lies at its kink to within rounding takes either side, and
    then the gradients of a draw differ by a pixel's share: 1e-4 to 4e-3, in up to six
    draws of ten (where a CPU has no 512-bit vectors), the others by 4e-6. So `needed`
    draws must agree to rounding, and those before them to a few times such a share.
    What counts a padded row or depends on devices does so in each draw.
    """
    failures = []
    for number in range(draws):
        found, expected = pair(jax.random.fold_in(KEY, number))
        same_step(found, expected, start, tolerance=2e-2)
        try:
            same_step(found, expected, start)
        except AssertionError as failure:
            failures.append(failure)
        if number + 1 - len(failures) == needed:
            return
    raise failures[0]


def differ(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)
