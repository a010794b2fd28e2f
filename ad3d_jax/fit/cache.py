"""Frozen features: computed once a sample and kept for all phases of a fit."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from ad3d_jax.base import (
    Array,
    Batch,
    Dataset,
    Phase,
    State,
    System,
    Train,
    with_cache,
    without_truth,
)
from ad3d_jax.devices import processes
from ad3d_jax.fit.cache_store import Store, make_room
from ad3d_jax.fit.members import same
from ad3d_jax.fit.phases import is_due, reads_cache
from ad3d_jax.fit.run import Run, fill, ordered_pass


class Features(NamedTuple):
    """The features of a source, one row a sample."""

    rows: Mapping[int, int]  # number of the row, by the sample's id
    arrays: Mapping[str, np.ndarray]  # [N,...] by name; in memory or mapped from files


class _Known(NamedTuple):
    """Features, and what they were computed of."""

    dataset: Dataset
    source: str
    state: State
    leaves: Sequence[Array]  # of the state, those that were read
    features: Features

    def reads_same(self, state: State) -> bool:
        """Returns whether a state has the very parts that may be read of this one."""
        return state.frozen is self.state.frozen and state.hyper is self.state.hyper


class Cache:
    """The features of one fit, or of all members of a population."""

    def __init__(self):
        self.bytes = 0  # of memory that is held
        self._known: list[_Known] = []

    def features(self, run: Run, source: str, state: State) -> Features:
        """Returns the features of a source, which are computed where they are not yet.

        They are in memory where half of what is free suffices, else in files below
        `Options.cache_folder`, where a fit that was killed finds them again.

        Raises:
            ValueError: two samples that differ share an id, or the cache reads what
                phases change.
            MemoryLimitError: they fit neither memory nor disk; the figures are named.
            Preempted: the process was asked to stop.
        """
        alike = [
            known
            for known in self._known
            if known.dataset is run.dataset and known.source == source
        ]
        for known in alike:  # as of another phase
            if known.reads_same(state):
                return known.features
        batch = next(iter(run.dataset.ordered(source, run.options.batch_size, 0)))
        batch = without_truth(batch)
        leaves = leaves_read(run.system, state, batch)
        for known in alike:  # as of another member of a population
            if all(map(same, leaves, known.leaves)):
                return known.features
        features, held = _computed(run, source, state, batch, leaves)
        self.bytes += held
        self._known.append(_Known(run.dataset, source, state, leaves, features))
        return features


def feeding(
    run: Run, phase: Phase, state: State
) -> Callable[[Iterator[Batch]], Iterator[Batch]]:
    """Returns what adds to a phase's host batches the features that are kept for it."""
    if not is_kept(run, phase):
        return iter
    features = run.cache.features(run, phase.source, state)
    return lambda batches: with_features(batches, features)


def composed(run: Run, phase: Phase, function: Callable) -> Callable:
    """Returns `function(key, state, batch)` of batches as `feeding` gives them.

    Where no other pass needs the features of the phase's source, nothing is kept, and
    they are computed within the function.
    """
    if not reads_cache(run.system, phase) or is_kept(run, phase):
        return function
    return lambda key, state, batch: function(
        key, state, with_cache(run.system, state, batch)
    )


def is_kept(run: Run, phase: Phase) -> bool:
    """Returns whether the features that a phase reads serve more than one pass."""
    if not reads_cache(run.system, phase):
        return False
    passes = [
        isinstance(other, Train)
        for other in run.system.phases
        if other.source == phase.source
        and is_due(other, run.options)
        and reads_cache(run.system, other)
    ]
    return len(passes) > 1 or any(passes)


def with_features(batches: Iterator[Batch], features: Features) -> Iterator[Batch]:
    """Yields the batches with their samples' features among the extras.

    Raises:
        ValueError: there are none of a sample.
    """
    for batch in batches:
        ids = np.where(np.asarray(batch.weight) > 0, batch.id, -1).tolist()
        unknown = [i for i in ids if i >= 0 and i not in features.rows]
        if unknown:
            raise ValueError(
                f"there are no features of the sample of id {unknown[0]}: the data has "
                "changed since they were computed"
            )
        rows = [features.rows.get(i, 0) for i in ids]  # of padding any
        found = {name: np.asarray(x[rows]) for name, x in features.arrays.items()}
        yield batch._replace(extras={**batch.extras, **found})


def leaves_read(system: System, state: State, batch: Batch) -> list[Array]:
    """Returns the leaves of the state that the cache reads.

    Raises:
        ValueError: it reads others than those of `frozen` and `hyper`.
    """
    traced = jax.make_jaxpr(system.cache)(state, batch).jaxpr
    used = {id(x) for equation in traced.eqns for x in equation.invars}
    used |= {id(x) for x in traced.outvars}
    leaves = tree_leaves_with_path(state)
    variables = traced.invars[: len(leaves)]
    read = [
        (path, leaf)
        for (path, leaf), variable in zip(leaves, variables, strict=True)
        if id(variable) in used
    ]
    for path, _ in read:
        if path[0].name not in ("frozen", "hyper"):
            raise ValueError(
                f"the cache of system {system.name} reads state{keystr(path)}, which "
                "phases change; expected frozen and hyper alone"
            )
    return [leaf for _, leaf in read]


def _computed(
    run: Run, source: str, state: State, batch: Batch, leaves: Sequence[Array]
) -> tuple[Features, int]:
    """Returns the features of a source and the bytes of memory that they take."""
    store = make_room(run, source, state, batch, leaves)
    size, rows = len(store.ids), run.options.batch_size
    (done,) = processes.lowest([store.done])  # all begin alike, and with a whole batch
    start = done // rows
    reached, saved_at = start * rows, time.monotonic()

    def note(last: int) -> None:
        nonlocal reached, saved_at
        reached = last
        if time.monotonic() - saved_at >= run.options.save_seconds:
            store.save(reached)
            saved_at = time.monotonic()

    if done < size:
        passed = ordered_pass(
            run,
            f"{run.system.name} (features of {source})",
            source,
            lambda _, state, batch: (batch.id, run.system.cache(state, batch)),
            state,
            jax.random.key(0),
            start=start,
        )
        try:
            room = (store.ids, dict(store.arrays))
            fill(passed, source, size, lambda _: room, reached, note)
        finally:
            store.save(reached)
    return Features(_numbered(source, store), store.arrays), store.held


def _numbered(source: str, store: Store) -> dict[int, int]:
    """Returns the number of each row by the id of its sample."""
    rows: dict[int, int] = {}
    for row, sample in enumerate(store.ids.tolist()):
        known = rows.setdefault(sample, row)
        pairs = ((x[known], x[row]) for x in store.arrays.values() if known != row)
        if any(one.tobytes() != other.tobytes() for one, other in pairs):
            raise ValueError(
                f"two samples of source {source} share the id {sample} and differ; "
                "their features cannot be distinguished"
            )
    return rows
