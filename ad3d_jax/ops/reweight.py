"""Image scores of memory banks: the worst patch, weighed by how usual its match is."""

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array
from ad3d_jax.ops import knn

KINDS = ("none", "paper", "ind_knn")


def image_score(
    bank: knn.Bank,
    queries: Array,
    scores: Array,
    number: Array,
    kind: str = "none",
    support: int = 3,
    divisor: float = 1.0,
    epsilon: float = 0.0,
) -> Array:
    """Returns the score of each sample, [B] float32.

    p* is the patch with the highest score, m* its nearest row of the bank, and the
    support of m* are the `support` rows nearest to m*, itself included. The score of p*
    is multiplied by 1 - e^|p*-m*| / sum e^|p*-m|, where

    - "none": the weight is 1 (PatchCore's release);
    - "paper": m runs over the support (PatchCore, arXiv 2106.08265, Eq. 7; anomalib);
    - "ind_knn": m runs over the support without m*, and distances are divided by
      sqrt(D) first (the line of `ind_knn_ad`: BTF, M3DM, CPMF).

    Args:
        bank: of N rows, whole or split over devices as in `knn.nearest`.
        queries: [B,P,D] float32 patches.
        scores: [B,P] float32 patch scores.
        number: [B,P] int32, the nearest row of each patch.
        kind: one of KINDS.
        support: b in the paper, capped by N; where one row is left the weight is 1,
            since the formula would say 0 of every sample.
        divisor: of all distances, that of p* too (1000 in M3DM's two banks).
        epsilon: that is added to the sum of exponentials (1e-5 in M3DM's single banks).

    Raises:
        ValueError: the kind is unknown, or the support is below 1.
    """
    check(kind, support)
    highest = jnp.max(scores, axis=1) / divisor
    if kind == "none":
        return highest
    worst = jnp.argmax(scores, axis=1)
    patch, matched = (
        jax.vmap(lambda x, row: x[row])(x, worst) for x in (queries, number)
    )
    factor = weight(bank, patch, matched, kind, support, divisor, epsilon)
    return factor * highest


def check(kind: str, support: int) -> None:
    """Raises ValueError where a field of the re-weighting is wrong."""
    if kind not in KINDS:
        raise ValueError(
            f"reweight is {kind!r}, expected one of {', '.join(map(repr, KINDS))}"
        )
    if support < 1:
        raise ValueError(f"support: expected at least 1 row, found {support}")


def weight(
    bank: knn.Bank,
    patch: Array,
    matched: Array,
    kind: str,
    support: int,
    divisor: float = 1.0,
    epsilon: float = 0.0,
) -> Array:
    """Returns the weights [B] of patches [B,D] that matched the rows [B]."""
    support = min(support, len(bank.across.gather(bank.number)))
    if support == 1:
        return jnp.ones(len(patch))
    match = knn.take(bank, matched)
    # m* itself comes first, or its copy.
    others = knn.nearest(bank, match, support).number[:, 1:]
    rows = jnp.concatenate([match[:, None], knn.take(bank, others)], axis=1)
    distance = jnp.linalg.norm(patch[:, None] - rows, axis=-1) / divisor
    if kind == "ind_knn":
        distance = distance / jnp.sqrt(jnp.float32(patch.shape[1]))
    # Where the bank is split, filling up may have made it look larger than it is.
    own, other = distance[:, 0], jnp.where(others < 0, -jnp.inf, distance[:, 1:])
    total = jax.nn.logsumexp(other, axis=1)
    if kind == "paper":
        total = jnp.logaddexp(total, own)
    if epsilon:
        total = jnp.logaddexp(total, jnp.log(jnp.float32(epsilon)))
    return jnp.where(jnp.isneginf(other[:, 0]), 1.0, 1 - jnp.exp(own - total))
