"""Frozen features that a Train phase computes once a sample."""

from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from ad3d_jax.base import Array, Batch, State, Train, Tree, without_truth
from ad3d_jax.fit.members import same
from ad3d_jax.fit.run import Run, ordered_pass, phase_name


def features_of(run: Run, phase: Train, state: State, key: Array) -> dict[int, Tree]:
    """Returns the frozen features of every sample of a split, by the sample's id.

    Raises:
        ValueError: two samples that differ share an id.
        Preempted: the process was asked to stop.
    """
    found: dict[int, Tree] = {}
    passes = ordered_pass(
        run,
        f"{phase_name(run, phase)} (features)",
        phase.source,
        lambda _, state, batch: phase.cache(state, batch),
        state,
        key,
    )
    for batch, rows in passes:
        for row, sample in enumerate(np.asarray(batch.id).tolist()):
            features = jax.tree.map(lambda x, row=row: x[row], rows)
            known = found.setdefault(sample, features)
            if known is not features and not _equal(known, features):
                raise ValueError(
                    f"two samples of split {phase.source} share the id {sample} and "
                    "differ; their features cannot be told apart"
                )
    return found


def features_of_each(
    runs: Sequence[Run], phase: Train, states: Sequence[State], key: Array
) -> list[dict[int, Tree]]:
    """Returns `features_of` each run, computed once for all that would be equal.

    They are where the data is one and the leaves of the state that the cache reads are
    equal.
    """
    batch = next(iter(runs[0].dataset.ordered(phase.source, 1, 0)))
    reads = _reads(phase, states[0], without_truth(batch))
    leaves = [
        [x for x, read in zip(jax.tree.leaves(state), reads, strict=True) if read]
        for state in states
    ]
    found: list[dict[int, Tree]] = []
    for i, run in enumerate(runs):
        equal = (
            features
            for j, features in enumerate(found)
            if run.dataset is runs[j].dataset and all(map(same, leaves[i], leaves[j]))
        )
        features = next(equal, None)
        if features is None:
            features = features_of(run, phase, states[i], key)
        found.append(features)
    return found


def with_features(
    batches: Iterator[Batch], features: Mapping[int, Tree]
) -> Iterator[Batch]:
    """Yields the batches with their samples' features among the extras."""
    for batch in batches:
        rows = [features[sample] for sample in np.asarray(batch.id).tolist()]
        stacked = jax.tree.map(lambda *x: np.stack(x), *rows)
        yield batch._replace(extras={**batch.extras, **stacked})


def _reads(phase: Train, state: State, batch: Batch) -> list[bool]:
    """Returns of each leaf of the state whether the phase's cache reads it."""
    traced = jax.make_jaxpr(phase.cache)(state, batch).jaxpr
    used = {id(x) for equation in traced.eqns for x in equation.invars}
    used |= {id(x) for x in traced.outvars}
    count = len(jax.tree.leaves(state))
    return [id(x) in used for x in traced.invars[:count]]


def _equal(one: Tree, other: Tree) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))
