"""Stages I and II of M3DM-NR: which training samples look least like the others.

A reconstruction (card `docs/systems/m3dm_nr.md`): the paper compares images and clouds
with text by CLIP and Point-BIND to find its references. Here what most samples share
stands for what is normal, in the features that M3DM has anyway. All functions work on
the host and take one scale, that is a modality or a layer of it, at a time.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array
from ad3d_jax.ops import knn
from ad3d_jax.ops.coreset import coreset_size

WORST = 0.01  # share of a sample's patches whose distances make its score
LEAST_REFERENCES = 5
SAMPLES = 8  # that are compared at a time


class References(NamedTuple):
    """Patches of the samples that are taken for normal."""

    bank: knn.Bank  # [K*P,D] unit vectors
    sample: np.ndarray  # [K] int32, numbers of the samples
    suspicion: np.ndarray  # [K*P] float32 in [0,1], how unlike the others a patch is


def unit(rows: Array) -> np.ndarray:
    """Returns rows [...,D] over their norms, float32; rows of 0 stay 0."""
    rows = np.asarray(rows, np.float32)
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.maximum(norm, 1e-12)


def normality(rows: Array) -> np.ndarray:
    """Returns how alike each sample is to the others, [T] float32 in [-1,1].

    The mean cosine of its mean patch [T,P,D] with those of all other samples; 1 of a
    sample alone.
    """
    means = unit(unit(rows).mean(1))
    count = len(means)
    if count == 1:
        return np.ones(1, np.float32)
    return ((means @ means.sum(0) - 1) / (count - 1)).astype(np.float32)


def chosen(scores: Array, share: float) -> np.ndarray:
    """Returns the numbers of the most normal samples, [K] int32, ascending.

    Args:
        scores: [T] float32, the mean over all scales of `normality`.
        share: of the samples, at least `LEAST_REFERENCES` where there are so many.
    """
    count = min(max(coreset_size(len(scores), share), LEAST_REFERENCES), len(scores))
    return np.sort(np.argsort(-scores, kind="stable")[:count]).astype(np.int32)


def references(rows: Array, sample: np.ndarray) -> References:
    """Returns the patches of the references among rows [T,P,D].

    A patch's suspicion is its cosine distance to the nearest one of the other
    references, from 0 at the least of its sample to 1 at the largest.
    """
    own = unit(rows[sample])
    count, places, dimensions = own.shape
    found = References(
        knn.build(own.reshape(-1, dimensions)),
        sample,
        np.zeros(count * places, np.float32),
    )
    if count == 1:
        return found
    distance, _ = distances(found, own, sample)
    low, high = (each(distance, axis=1, keepdims=True) for each in (np.min, np.max))
    span = np.where(high > low, high - low, 1.0)
    return found._replace(suspicion=((distance - low) / span).reshape(-1))


def distances(
    known: References, rows: Array, sample: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (cosine distance, number of the row) of each patch's match, [n,P] both.

    Args:
        known: is compared with; the patches of a sample itself do not count.
        rows: [n,P,D] unit vectors.
        sample: [n] int32, numbers of their samples.
    """
    places = rows.shape[1]
    allowed = np.repeat(known.sample[None] != sample[:, None], places, axis=1)
    flat = jnp.asarray(rows.reshape(-1, rows.shape[-1]))
    found = knn.nearest(known.bank, flat, allowed=allowed)
    # Of unit vectors the squared distance is twice the cosine distance.
    distance = np.square(np.asarray(found.distance)).reshape(len(rows), places) / 2
    return distance, np.asarray(found.number).reshape(len(rows), places)


def unlikeness(known: References, rows: Array) -> np.ndarray:
    """Returns how far each sample [T,P,D] is from the references, [T] float32.

    The mean of its worst patches' cosine distances, each times one less the suspicion
    of what it matched.
    """
    total, places = rows.shape[:2]
    worst = max(1, round(WORST * places))
    found = []
    for first in range(0, total, SAMPLES):
        part = np.arange(first, min(first + SAMPLES, total), dtype=np.int32)
        distance, number = distances(known, unit(rows[part]), part)
        weighed = distance * (1 - known.suspicion[number])
        found.append(np.sort(weighed, axis=1)[:, -worst:].mean(1))
    return np.concatenate(found).astype(np.float32)


def suspects(scores: Array, share: float) -> np.ndarray:
    """Returns the numbers of the samples that are left out, floor(share * T), sorted.

    Those of the highest scores [T]; of equal ones the later.
    """
    count = int(share * len(scores))
    order = np.argsort(scores, kind="stable")
    return np.sort(order[len(order) - count :]).astype(np.int32)
