"""The types every system, driver and test is written against, and their contracts.

A system is a named tuple of pure functions over explicit state. The order of arguments
is the same everywhere: random key first, state second, batch last.

Dimension names used in all docstrings: B batch rows, H and W image height and width,
C channels, K scales, N bank rows, D features.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from os import PathLike
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array | np.ndarray
Tree = Any

# As the default of a field: an empty dict of the instance's own. One that all instances
# share would carry what is written to one of them into every other.
OWN: Any = object()


def with_own_dicts(named_tuple: type) -> type:
    """Returns the NamedTuple class; its fields that are `OWN` become new dicts."""
    plain = named_tuple.__new__

    @wraps(plain)
    def new(cls, *args, **kwargs):
        fields = plain(cls, *args, **kwargs)
        return cls._make({} if field is OWN else field for field in fields)

    named_tuple.__new__ = staticmethod(new)
    return named_tuple


@with_own_dicts
class Batch(NamedTuple):
    """Samples as measured, book-keeping and, for evaluation alone, the truth.

    The same type holds NumPy arrays on the host and JAX arrays on a device. A modality
    that was not measured is None. A cloud without rows and columns has H = N points and
    W = 1.
    """

    rgb: Array | None = None  # [B,H,W,3] float32 in [0,1]
    xyz: Array | None = None  # [B,H,W,3] float32 metres, (0,0,0) where unmeasured
    depth: Array | None = None  # [B,H,W,1] float32 metres, as the recipe filled it
    valid: Array | None = None  # [B,H,W,1] bool, measured by the sensor
    foreground: Array | None = None  # [B,H,W,1] bool, on the object
    extras: Mapping[str, Array] = OWN  # what the recipe or `System.cache` adds, by name
    weight: Array | None = None  # [B] float32, 0 marks a padded row
    id: Array | None = None  # [B] int32 >= 0, hash of the image file; seeds keys alone
    category: Array | None = None  # [B] int32, index of the class
    mask: Array | None = None  # [B,Hm,Wm,1] bool, defect pixels (truth)
    label: Array | None = None  # [B] int32, 1 = anomalous (truth)


TRUTH = ("mask", "label")


@with_own_dicts
class State(NamedTuple):
    """All that a system knows; every leaf is an array."""

    params: Tree = OWN  # differentiated
    frozen: Tree = OWN  # pretrained weights and texture banks, never written by a step
    extra: Tree = OWN  # batch statistics, moving-average codebooks
    memory: Tree = OWN  # banks and statistics, written by Gather and Sum phases
    hyper: Mapping[str, Array] = OWN  # 0-d arrays: learning rates, noise, loss weights


@with_own_dicts
class Scores(NamedTuple):
    """What a system says of a batch; higher is more anomalous."""

    map: Array  # [B,H,W,1] float32, finite
    image: Array  # [B] float32, finite
    parts: Mapping[str, Array] = OWN  # maps and images by name, each [B,H,W,C] float32
    match: Array | None = None  # [B,5] int32, see MATCH; of memory banks, on request


# What `Scores.match` says: the pixel at the centre of the worst patch, the number of
# the training sample that it matched, and the pixel at the centre of the matched patch.
MATCH = ("row", "column", "sample", "sample_row", "sample_column")


class Across(NamedTuple):
    """Reductions over the rows of all devices, for what couples samples."""

    sum: Callable[[Array], Array]  # sums over devices an already locally summed array
    gather: Callable[[Array], Array]  # [B,...] -> [devices*B,...], in row order
    index: Callable[[], Array | int] = lambda: 0  # this device's place in that order


ALONE = Across(sum=lambda x: x, gather=lambda x: x)


class Loss(Protocol):
    """Per-sample loss of one update."""

    def __call__(
        self, keys: Array, params: Tree, state: State, batch: Batch, across: Across
    ) -> tuple[Array, Tree, Mapping[str, Array]]:
        """Returns (per_sample [B], sums, info).

        Args:
            keys: [B] typed keys, one a sample, folded from step and sample id.
            params: the tree that is differentiated (`state.params` itself is stale).
            state: everything else.
            batch: rows; a row of weight 0 holds zeros and must give a finite loss.
            across: reductions over all devices.

        `sums` is a tree of additive statistics over this device's real rows; the driver
        adds them over devices and hands them to `Train.fold`. `info` maps names to [B]
        arrays that are logged as weighted means.
        """


class Update(NamedTuple):
    """One gradient update; the updates of a phase alternate within each step.

    The steps that `optimizer` gets are a number, or a [] array where the runs of a
    population differ in them.
    """

    loss: Loss
    optimizer: Callable[[Mapping[str, Array], int], Any]  # (hyper, steps) -> optax
    trainable: tuple[str, ...] | None = None  # top-level names of params; None = all
    repeat: int = 1  # times in a row (a critic's five steps to one)
    fresh: bool = False  # each repetition has a batch of its own


class Pretrained(NamedTuple):
    """A part of the state that a file may bring.

    Backbones, banks of textures, and what a phase of an earlier run has made.
    `read(file, like)` returns a tree of the structure, shapes and dtypes of `like`;
    where any number of rows is good, as of textures, the first axis may differ.
    """

    name: str  # `config.weights.NAME` names the file
    get: Callable[[State], Tree]
    put: Callable[[State, Tree], State]
    read: Callable[[str | PathLike, Tree], Tree]
    sources: tuple[str, ...] = ()  # provenances that are accepted; () = any


class Train(NamedTuple):
    """A phase that minimises losses over a stream of batches.

    `weigh(state, batch)` returns factors [B] >= 0 of the rows' weights; what it makes 0
    is left out as padding is.
    """

    name: str
    updates: tuple[Update, ...]
    steps: int
    source: str = "train"  # a row of the table of sources; never test
    epochs: int | None = None  # passes over the source, in place of steps
    batch_size: int | None = None  # rows of an update; None = that of the fit
    fold: Callable[[Tree, Tree], Tree] | None = None  # (extra, sums) -> extra
    weigh: Callable[[State, Batch], Array] | None = None
    needs: tuple[str, ...] | None = None  # fields of its source; None = needs_fit
    pretrained: str | None = None  # the row of `System.pretrained` that it makes
    health: Callable[[Tree], Mapping[str, Array]] | None = None  # extra -> logged, []


class Plan(NamedTuple):
    """What a Gather phase will take, known from shapes before any work."""

    rows: int  # that the samples emit
    kept: int  # entries of the bank: rows, or distributions fitted to them
    dimensions: int  # numbers in a row
    bank_bytes: int  # of the bank itself
    split_bytes: int  # device memory that can be shared between devices by rows
    whole_bytes: int  # device memory that every device needs besides
    host_bytes: int  # peak of the host
    chunk: int  # rows that are compared at a time


class Select(NamedTuple):
    """The long choice of the rows of one leaf that are kept, in slices.

    Between two slices progress shows, and the carry is saved, so that a kill costs one
    slice. `prepare(key, state, rows)` returns (data, carry): a tree of [N,...] arrays
    that the driver splits over devices by rows, filling up with copies of its last row
    where N does not divide (`data["number"]` [N] int32 is the row's number, and -1 in
    what fills up), and the beginning. `advance(data, carry, across)` returns the carry
    after one slice and runs on each device's rows; `done(carry)` returns (done, total)
    and `take(rows, carry)` what is absorbed in the leaf's place, on the host.

    `onwards(carry, other)` returns, of the beginning and the end of another choice of
    the same data, of more or of fewer rows, where this one stands already; None where
    choices do not help each other.
    """

    prepare: Callable[[Array, State, Tree], tuple[Mapping[str, Array], Tree]]
    advance: Callable[[Mapping[str, Array], Tree, Across], Tree]
    done: Callable[[Tree], tuple[int, int]]
    take: Callable[[Tree, Tree], Tree]
    onwards: Callable[[Tree, Tree], Tree] | None = None


class Gather(NamedTuple):
    """A phase that visits each sample once and builds memory from what it emits.

    Where `select` has a choice for a name of what is emitted, its result is absorbed in
    place of the rows; names without one are absorbed whole.
    """

    name: str
    emit: Callable[[Array, State, Batch], Tree]  # rows: a tree of [B,...] arrays
    absorb: Callable[[Array, State, Tree], State]  # rows in manifest order, no padding
    source: str = "train"  # a row of the table of sources; never test
    select: Mapping[str, Select] | None = None  # by the names of what is emitted
    plan: Callable[[State, Tree], Plan] | None = None  # of shapes of all emitted rows
    pretrained: str | None = None  # the row of `System.pretrained` that it makes
    needs: tuple[str, ...] | None = None  # fields of its source; None = needs_fit


class Sum(NamedTuple):
    """A phase that visits each sample once and adds up what is emitted.

    `emit(key, state, batch)` returns a tree of additive statistics over the rows of one
    device, each row times its `batch.weight`. They are added on the devices, and
    `finish(key, state, sums)` gets the sums over all samples on the host, in float64.
    `weigh` is as of `Train`.
    """

    name: str
    emit: Callable[[Array, State, Batch], Tree]
    finish: Callable[[Array, State, Tree], State]
    source: str = "train"  # a row of the table of sources; never test
    weigh: Callable[[State, Batch], Array] | None = None
    needs: tuple[str, ...] | None = None  # fields of its source; None = needs_fit
    pretrained: str | None = None  # the row of `System.pretrained` that it makes


Phase = Train | Gather | Sum


class Local(NamedTuple):
    """How a system scores a picture part by part, where no part sees the whole.

    `cells(key, state, batch)` returns scores of the cells of a grid over the picture,
    [B,h,w,1] float32. A cell depends on the pixels alone that lie within `reach` pixels
    of it, and on its own place in no other way than by where the picture ends.
    `whole(cells, (H, W))` returns what is said of a picture of that size by all of its
    cells, so that map and image score of `System.score` are `whole` of `cells`.
    """

    cells: Callable[[Array, State, Batch], Array]
    whole: Callable[[Array, tuple[int, int]], Scores]
    reach: int  # pixels
    cell: int  # pixels of a side of a cell
    step: int  # pixels: parts begin at multiples of it, and sides are multiples


class System(NamedTuple):
    """An anomaly detector.

    `needs_fit` and `needs_score` name the batch fields that must be present, an entry
    of `extras` as "extras.NAME". `init(key, batch)` depends on the key and on the
    shapes of the batch alone. `score(key, state, batch)` treats each row by itself.
    `cache(state, batch)` returns frozen features [B,...] by name, of `state.frozen` and
    `state.hyper` alone. They are among the extras of every batch that `score`, and a
    phase without `needs` of its own, sees (`with_cache`), and are computed once a
    sample for all passes of a fit, or of many fits (`fit.cache_store.Store`).
    `synthesise(keys, state, batch)` returns what the losses train on: images [B,H,W,C]
    by the names of `Scores.parts`, the clean ones as "clean_NAME", the altered ones as
    "altered_NAME", and "mask" [B,H,W,1] float32, the altered pixels.
    `local` says that large pictures can be scored by parts, and how; its `cells` see
    what `score` sees.
    """

    name: str
    needs_fit: tuple[str, ...]
    needs_score: tuple[str, ...]
    init: Callable[[Array, Batch], State]
    phases: tuple[Phase, ...]
    score: Callable[[Array, State, Batch], Scores]
    pretrained: tuple[Pretrained, ...] = ()
    cache: Callable[[State, Batch], Mapping[str, Array]] | None = None
    sharded: tuple[str, ...] = ()  # banks in memory that may be split over devices
    synthesise: Callable[[Array, State, Batch], Mapping[str, Array]] | None = None
    local: Local | None = None


class Dataset(Protocol):
    """Where the drivers read from; `data_pipelines` has the implementations.

    A split is a row of the table of sources, or "test".
    """

    def size(self, split: str) -> int:
        """Returns the number of samples of a split."""

    def endless(
        self, split: str, batch_size: int, seed: int, start: int
    ) -> Iterator[Batch]:
        """Yields full batches for ever, from batch `start` on.

        Each epoch is a permutation that depends on (seed, epoch) alone; epochs follow
        on each other without a gap, so that no row is padding, and rows repeat within
        a batch where the split is smaller.
        """

    def ordered(self, split: str, batch_size: int, start: int) -> Iterator[Batch]:
        """Yields each sample once in manifest order, from batch `start` on.

        The last batch is filled up with rows of weight 0.
        """

    def share(self, process: int, processes: int) -> "Dataset":
        """Returns a view whose batches hold what one of several processes needs.

        Those are the rows `process * B / processes` and on, B / processes of them; of
        the others the book-keeping alone.
        """

    def only(self, split: str, numbers: Array) -> "Dataset":
        """Returns a view with some samples of a split, by their numbers in order."""


def with_cache(system: System, state: State, batch: Batch) -> Batch:
    """Returns the batch with what `system.cache` computes among its extras.

    What it holds by these names was computed before, and is left as it is.
    """
    if system.cache is None:
        return batch
    return batch._replace(extras={**system.cache(state, batch), **batch.extras})


def scoring(system: System) -> Callable[[Array, State, Batch], Scores]:
    """Returns `score(key, state, batch)` of batches as they are measured."""

    def score(key: Array, state: State, batch: Batch) -> Scores:
        return system.score(key, state, with_cache(system, state, batch))

    return score


def sample_keys(key: Array, batch: Batch) -> Array:
    """Returns one key a row, [B], a function of the key and the sample's id."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch.id)


def fold_each(keys: Array, number: int) -> Array:
    """Returns one new key for each of [B] keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def without_truth(batch: Batch) -> Batch:
    """Returns the batch with mask and label taken away."""
    return batch._replace(mask=None, label=None)


def missing_fields(needs: tuple[str, ...], batch: Batch) -> list[str]:
    """Returns the names in `needs` that the batch does not hold."""

    def present(name: str) -> bool:
        if name.startswith("extras."):
            return name.removeprefix("extras.") in batch.extras
        return getattr(batch, name) is not None

    return [name for name in needs if not present(name)]
