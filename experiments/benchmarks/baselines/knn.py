"""Nearest neighbours against faiss's flat index, and torch.cdist + min."""

from functools import partial

import jax
import numpy as np

from ad3d_jax.ops import knn
from experiments.benchmarks.baselines.comparison import (
    Call,
    baseline,
    normal,
    side_by_side,
)

# Queries, rows, dimensions: the fast mode's ranks are looked up among RANKS.
SIZES = ((784, 40_000, 1536), (784, 17_483, 33))
SMALL = ((16, 1000, 24),)
RANKS = 16


def compare(small: bool, rounds: int) -> list[dict]:
    """Returns the timings of the nearest neighbour, k = 1, for each size."""
    return [_knn(*size, rounds=rounds) for size in (SMALL if small else SIZES)]


def _knn(queries: int, rows: int, dimensions: int, rounds: int) -> dict:
    """Returns one size's timings and the fast mode's changes of rank."""
    data = normal(np.empty((rows, dimensions), np.float32))
    asked = normal(np.empty((queries, dimensions), np.float32), seed=1)
    bank, placed = jax.device_put((knn.build(data), asked))
    ours, fast, ranked = (
        jax.jit(partial(knn.nearest, **options))
        for options in ({}, {"mode": "fast"}, {"k": min(RANKS, rows)})
    )
    calls = {
        "ours": lambda: ours(bank, placed),
        "ours_fast": lambda: fast(bank, placed),
        "faiss_flat": baseline(faiss_flat, data, asked),
        "torch_cdist": baseline(torch_cdist, data, asked),
    }
    results = side_by_side(calls, rounds)
    order = np.asarray(ranked(bank, placed).number)
    found = order == np.asarray(fast(bank, placed).number)
    rank = np.where(found.any(1), found.argmax(1), order.shape[1])
    flops = 2 * queries * rows * dimensions
    return {
        "queries": queries,
        "rows": rows,
        "dimensions": dimensions,
        "implementations": results,
        "flops_per_second": flops / results["ours"]["seconds_median"],
        "fast_share_of_queries_changed": float((rank > 0).mean()),
        "fast_largest_rank_change": int(rank.max()),
    }


def faiss_flat(rows: np.ndarray, queries: np.ndarray) -> Call:
    """Returns the search in faiss's flat index. ImportError where there is no faiss."""
    import faiss

    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    return lambda: index.search(queries, 1)


def torch_cdist(rows: np.ndarray, queries: np.ndarray) -> Call:
    """Returns torch.cdist + min, which public banks use. ImportError without torch."""
    import torch

    rows, queries = torch.from_numpy(rows), torch.from_numpy(queries)
    return lambda: torch.cdist(queries, rows).min(dim=1)
