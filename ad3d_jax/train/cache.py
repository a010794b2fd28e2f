"""Frozen features that a Train phase computes once a sample."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np

from ad3d_jax.base import Array, Batch, State, Train, Tree
from ad3d_jax.train.run import Run, ordered_pass, phase_name


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


def with_features(
    batches: Iterator[Batch], features: Mapping[int, Tree]
) -> Iterator[Batch]:
    """Yields the batches with their samples' features among the extras."""
    for batch in batches:
        rows = [features[sample] for sample in np.asarray(batch.id).tolist()]
        stacked = jax.tree.map(lambda *x: np.stack(x), *rows)
        yield batch._replace(extras={**batch.extras, **stacked})


def _equal(one: Tree, other: Tree) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))
