"""The peak of the memory while a large bank is searched, against the plan."""

import gc
import multiprocessing
import time

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.devices.memory import host_peak_bytes
from ad3d_jax.ops import knn
from experiments.benchmarks.baselines.comparison import normal

SIZE = (784, 1_000_000, 1536)  # queries, rows, dimensions
SMALL = (64, 200_000, 64)


def measure(small: bool, rounds: int) -> dict:
    """Returns the peak while a bank is searched, and the plan's figure.

    In a process of its own, whose peak is nobody else's. `rounds` is not used.
    """
    del rounds
    size = SMALL if small else SIZE
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(memory_of_search, size)


def memory_of_search(queries: int, rows: int, dimensions: int) -> dict:
    """Returns what the host's memory grows by, searching in a bank made in place."""
    asked = jnp.asarray(normal(np.empty((queries, dimensions), np.float32)))
    bank = knn.Bank(
        *(
            jax.ShapeDtypeStruct(shape, dtype)
            for shape, dtype in (
                ((rows, dimensions), jnp.float32),
                ((rows,), jnp.float32),
                ((dimensions,), jnp.float32),
                ((rows,), jnp.int32),
            )
        )
    )
    search = jax.jit(knn.nearest).lower(bank, asked).compile()
    gc.collect()
    before = host_peak_bytes()
    data = normal(knn.aligned_rows(rows, dimensions))
    bank = knn.Bank(
        rows=data,
        half_norms=np.einsum("nd,nd->n", data, data) / 2,
        mean=np.zeros(dimensions, np.float32),
        number=np.arange(rows, dtype=np.int32),
    )
    bank = jax.device_put(bank)
    start = time.perf_counter()
    jax.block_until_ready(search(bank, asked))
    seconds = time.perf_counter() - start
    grown = host_peak_bytes() - before
    planned = knn.plan_bytes(queries, rows, dimensions, bank.chunk_bytes)
    return {
        "queries": queries,
        "rows": rows,
        "dimensions": dimensions,
        "bank_bytes": data.nbytes,
        "planned_bytes": planned,
        "peak_bytes": grown,
        "peak_to_planned": grown / planned,
        "all_pairs_bytes": 4 * queries * rows,
        "seconds": seconds,
    }
