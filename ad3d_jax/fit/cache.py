"""Frozen features: computed once a sample and kept for whoever reads them again."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from ad3d_jax.base import (
    Batch,
    Dataset,
    Phase,
    State,
    Train,
    with_cache,
    without_truth,
)
from ad3d_jax.devices import processes
from ad3d_jax.devices.memory import MemoryLimitError
from ad3d_jax.fit.cache_keys import Key, Origin, Row, of_process, origins, rows_of
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.fit.phases import is_due, reads_cache
from ad3d_jax.fit.run import Run, ordered_pass


class Features(NamedTuple):
    """The features of a source."""

    keys: Mapping[int, Mapping[str, Key]]  # by the sample's id, by name
    likes: Mapping[str, jax.ShapeDtypeStruct]  # of one sample, by name
    store: Store


class _Known(NamedTuple):
    """Features, and what they were computed of."""

    dataset: Dataset
    source: str
    state: State
    origins: Mapping[str, Origin]
    features: Features

    def reads_same(self, state: State) -> bool:
        """Returns whether a state has the very parts that may be read of this one."""
        return state.frozen is self.state.frozen and state.hyper is self.state.hyper


class Cache:
    """The features of one fit, or of all members of a population."""

    def __init__(self, store: Store | None = None):
        """Takes the store that others may use, too; None = its own, in memory."""
        self.store = Store() if store is None else store
        self._known: list[_Known] = []

    def features(self, run: Run, source: str, state: State) -> Features:
        """Returns the features of a source; those that are not kept yet are computed.

        They are in memory where half of what is free suffices, else in the store's
        folder, where a fit that was killed finds them again.

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
        found = origins(run.system, state, without_truth(batch))
        for known in alike:  # as of another member of a population
            if known.origins == found:
                return known.features
        own = found
        if jax.process_count() > 1:
            own = of_process(found, source, without_truth(batch))
        rows = _kept_rows(run, source, state, own, self.store)
        keys = _by_id(source, rows, own, self.store)
        likes = {name: origin.like for name, origin in own.items()}
        features = Features(keys, likes, self.store)
        self._known.append(_Known(run.dataset, source, state, found, features))
        return features


class Feed(NamedTuple):
    """How a phase comes by the features of its samples."""

    extend: Callable[[Iterator[Batch]], Iterator[Batch]]  # of host batches
    complete: Callable[[State, Batch], Batch]  # of a batch within a compiled function


def feeding(run: Run, phase: Phase, state: State) -> Feed:
    """Returns what adds to the batches of a phase the features that it reads.

    They are kept, and added on the host, where they serve more than one pass. Else they
    are computed within the phase's own pass; so they are, too, where there is no room,
    unless gradient steps would compute them again and again.

    Raises:
        as `Cache.features`.
    """
    if not reads_cache(run.system, phase):
        return Feed(iter, _as_it_is)
    if is_kept(run, phase):
        try:
            features = run.cache.features(run, phase.source, state)
            return Feed(partial(with_features, features=features), _as_it_is)
        except MemoryLimitError:
            if _is_trained_on(run, phase.source):
                raise
    return Feed(iter, partial(with_cache, run.system))


def _as_it_is(state: State, batch: Batch) -> Batch:
    return batch


def is_kept(run: Run, phase: Phase) -> bool:
    """Returns whether the features that a phase reads serve more than one pass."""
    if not reads_cache(run.system, phase):
        return False
    passes = len(_readers(run, phase.source))
    return run.cache.store.lasting or passes > 1 or _is_trained_on(run, phase.source)


def _is_trained_on(run: Run, source: str) -> bool:
    return any(isinstance(phase, Train) for phase in _readers(run, source))


def _readers(run: Run, source: str) -> list[Phase]:
    """Returns the phases that read features of a source."""
    return [
        phase
        for phase in run.system.phases
        if phase.source == source
        and is_due(phase, run.options)
        and reads_cache(run.system, phase)
    ]


def with_features(batches: Iterator[Batch], features: Features) -> Iterator[Batch]:
    """Yields the batches with their samples' features among the extras.

    Raises:
        ValueError: there are none of a sample.
    """
    anyone = next(iter(features.keys.values()))
    for batch in batches:
        ids = np.where(np.asarray(batch.weight) > 0, batch.id, -1).tolist()
        unknown = [i for i in ids if i >= 0 and i not in features.keys]
        if unknown:
            raise ValueError(
                f"there are no features of the sample of id {unknown[0]}: the data has "
                "changed since they were computed"
            )
        rows = [features.keys.get(i, anyone) for i in ids]  # of padding anyone's
        found = {
            name: np.stack([features.store.get(keys[name], like) for keys in rows])
            for name, like in features.likes.items()
        }
        yield batch._replace(extras={**batch.extras, **found})


def _kept_rows(
    run: Run, source: str, state: State, origins: Mapping[str, Origin], store: Store
) -> list[Row]:
    """Returns the rows of a source when all their features are in the store."""
    rows: list[Row] = []
    if any(store.knows(origin.program) for origin in origins.values()):
        for batch in run.dataset.ordered(source, run.options.batch_size, 0):
            rows += rows_of(without_truth(batch), origins, len(rows))
    size = run.dataset.size(source)
    missing = [
        len({r.keys[name] for r in rows if r.keys[name] not in store}) if rows else size
        for name in origins
    ]
    # Of several processes all compute the same, though one may miss less than another.
    missing = [-count for count in processes.lowest([-count for count in missing])]
    wanted = {n: count for n, count in zip(origins, missing, strict=True) if count}
    if not wanted:
        return rows
    likes = {name: origins[name].like for name in wanted}
    needed = sum(
        count * likes[name].size * likes[name].dtype.itemsize
        for name, count in wanted.items()
    )
    most = max(wanted.values())
    figures = f"{run.system.name}: the features of {most} samples of {source}"
    put = store.make_room(needed, run.limits().host_bytes, figures)
    return _compute(run, source, state, origins, list(wanted), put)


def _compute(
    run: Run,
    source: str,
    state: State,
    origins: Mapping[str, Origin],
    wanted: Sequence[str],
    put: Callable[[Key, np.ndarray], None],
) -> list[Row]:
    """Computes the wanted features where they are missing; returns all rows.

    Raises:
        ValueError: the source has not the size that it says.
    """
    store, size = run.cache.store, run.dataset.size(source)
    rows: list[Row] = []
    waiting: deque[list[Row]] = deque()

    def due(batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            some = rows_of(without_truth(batch), origins, len(rows))
            rows.extend(some)
            lacks = any(row.keys[name] not in store for row in some for name in wanted)
            if lacks or jax.process_count() > 1:
                waiting.append(some)
                yield batch

    def features(_, state: State, batch: Batch) -> dict:
        found = run.system.cache(state, batch)
        return {name: found[name] for name in wanted}

    title = f"{run.system.name} (features of {source})"
    key = jax.random.key(0)
    for _, found in ordered_pass(run, title, source, features, state, key, due):
        for number, row in enumerate(waiting.popleft()):
            for name in wanted:
                if row.keys[name] not in store:
                    put(row.keys[name], found[name][number])
    if len(rows) != size:
        raise ValueError(
            f"source {source} says that it holds {size} samples, but gives {len(rows)}"
        )
    return rows


def _by_id(
    source: str, rows: Sequence[Row], origins: Mapping[str, Origin], store: Store
) -> dict[int, Mapping[str, Key]]:
    """Returns the keys of each sample by its id."""
    found: dict[int, Mapping[str, Key]] = {}
    for row in rows:
        first = found.setdefault(row.id, row.keys)
        for name, origin in origins.items():
            one, other = first[name], row.keys[name]
            if one != other and (
                store.get(one, origin.like).tobytes()
                != store.get(other, origin.like).tobytes()
            ):
                raise ValueError(
                    f"two samples of source {source} share the id {row.id} and differ; "
                    "their features cannot be distinguished"
                )
    return found
