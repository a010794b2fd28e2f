"""Times the engine of the memory banks against public implementations of the same.

    python -m experiments.rivals --output=FILE.json \
        [--operations=knn,coreset,fpfh,memory] [--small]

In one process, on random data, in turns: each round calls every contestant once, so
that a machine that others slow down slows them all. Ratios are of medians, ours in the
denominator: 2 says that we take half of their time. A rival that is not installed is
null, with the reason.

`knn`: faiss's flat index, and torch.cdist + min. `coreset`: the plain loop in torch,
of which some picks are timed and scaled, since each costs the same. `fpfh`: Open3D.
`memory`: the peak while a large bank is searched, against `knn.plan_bytes`.
"""

import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ad3d_jax.base import State
from ad3d_jax.ops import coreset, knn
from ad3d_jax.ops.fpfh import fpfh
from ad3d_jax.train.workdir import write_json
from data_pipelines import geometry
from data_pipelines.errors import DatasetError
from experiments import flag_errors, session
from experiments.benchmark import chooser, host_peak_bytes, machine

ROUNDS = 5
# Queries, rows, dimensions: the fast mode's ranks are looked up among RANKS.
KNN = ((784, 40_000, 1536), (784, 17_483, 33))
RANKS = 16
# Rows, dimensions, picks, and the picks of the plain loop that are timed.
CORESET = ((174_832, 33, 17_483, 200), (100_000, 128, 10_000, 100))
FPFH = ((1, 224), (4, 224))  # clouds, side
MEMORY = (784, 1_000_000, 1536)
SMALL = {
    "knn": ((16, 1000, 24),),
    "coreset": ((2000, 8, 200, 20),),
    "fpfh": ((1, 24),),
    "memory": (64, 200_000, 64),
}
STREAM_BYTES = 2**28

Call = Callable[[], object]


def run(operations: Sequence[str], small: bool = False, rounds: int = ROUNDS) -> dict:
    """Returns the report: facts of the machine, and each operation's timings.

    Args:
        operations: names in OPERATIONS.
        small: tiny sizes, to try the command itself.
        rounds: how often each contestant is timed.

    Raises:
        ValueError: an operation is unknown, or there is no round.
    """
    for name in operations:
        if name not in OPERATIONS:
            known = ", ".join(OPERATIONS)
            raise ValueError(f"operations: expected some of {known}, found {name!r}")
    if rounds < 1:
        raise ValueError(f"expected at least 1 round, found {rounds}")
    return {
        **machine(),
        "cores": os.cpu_count(),
        "commit": session.commit(),
        "rounds": rounds,
        "small": small,
        "operations": {name: OPERATIONS[name](small, rounds) for name in operations},
    }


def compare_knn(small: bool, rounds: int) -> list[dict]:
    """Returns the timings of the nearest neighbour, k = 1, for each size."""
    return [_knn(*size, rounds=rounds) for size in (SMALL["knn"] if small else KNN)]


def compare_coreset(small: bool, rounds: int) -> list[dict]:
    """Returns the timings of the greedy choice for each size."""
    sizes = SMALL["coreset"] if small else CORESET
    return [_coreset(*size, rounds=rounds) for size in sizes]


def compare_fpfh(small: bool, rounds: int) -> list[dict]:
    """Returns the timings of FPFH with its normals for each size of batch."""
    return [_fpfh(*size, rounds=rounds) for size in (SMALL["fpfh"] if small else FPFH)]


def measure_memory(small: bool, rounds: int) -> dict:
    """Returns the peak while a bank is searched, and the plan's figure.

    In a process of its own, whose peak is nobody else's. `rounds` is not used.
    """
    del rounds
    size = SMALL["memory"] if small else MEMORY
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(memory_of_search, size)


def memory_of_search(queries: int, rows: int, dimensions: int) -> dict:
    """Returns what the host's memory grows by, searching in a bank made in place."""
    asked = jnp.asarray(_normal(np.empty((queries, dimensions), np.float32)))
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
    before = _peak_bytes()
    data = _normal(knn.aligned_rows(rows, dimensions))
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
    grown = _peak_bytes() - before
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


def bandwidth(rounds: int) -> float:
    """Returns the bytes a second of a stream: two arrays are read, one is written."""
    a, b = (jnp.full(STREAM_BYTES // 4, value, jnp.float32) for value in (1, 2))
    triad = jax.jit(lambda a, b: a + 3 * b)
    seconds = in_turns({"triad": lambda: triad(a, b)}, rounds)["triad"]
    return 3 * STREAM_BYTES / min(seconds)


def in_turns(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each call in each round, after one call for warming up."""
    seconds = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def contest(
    calls: dict[str, Call | str], rounds: int, scale: dict[str, float] | None = None
) -> dict:
    """Returns {name: {"seconds_median", "ratio_to_ours"} or nulls and a "reason"}.

    Args:
        calls: of the contestants, "ours" among them; a text is why one is missing.
        rounds: how often each is called.
        scale: what to multiply a contestant's seconds by.
    """
    able = {name: call for name, call in calls.items() if not isinstance(call, str)}
    scale = {name: 1.0 for name in calls} | (scale or {})
    medians = {
        name: scale[name] * float(np.median(seconds))
        for name, seconds in in_turns(able, rounds).items()
    }
    return {
        name: {
            "seconds_median": medians.get(name),
            "ratio_to_ours": medians[name] / medians["ours"] if name in able else None,
            "reason": None if name in able else calls[name],
        }
        for name in calls
    }


def rival(make: Callable[..., Call], *arguments) -> Call | str:
    """Returns the rival's call, or why there is none."""
    try:
        return make(*arguments)
    except (ImportError, OSError, DatasetError) as error:
        return str(error)


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


def torch_greedy(rows: np.ndarray, picks: int) -> Call:
    """Returns the plain greedy loop on float32 rows. ImportError without torch."""
    import torch

    rows = torch.from_numpy(rows)

    def call() -> list[int]:
        chosen, far = [0], torch.norm(rows - rows[0], dim=1)
        for _ in range(picks - 1):
            pick = torch.argmax(far).item()
            chosen.append(pick)
            far = torch.minimum(far, torch.norm(rows - rows[pick], dim=1))
            far[pick] = 0
        return chosen

    return call


def open3d_fpfh(clouds: np.ndarray) -> Call:
    """Returns Open3D's normals and FPFH of each cloud. DatasetError without it."""
    geometry.open3d()
    flat = clouds.reshape(len(clouds), -1, 3)
    return lambda: [geometry.normals_and_fpfh(points) for points in flat]


def _knn(queries: int, rows: int, dimensions: int, rounds: int) -> dict:
    """Returns one size's contest and the fast mode's changes of rank."""
    data = _normal(np.empty((rows, dimensions), np.float32))
    asked = _normal(np.empty((queries, dimensions), np.float32), seed=1)
    bank, placed = jax.device_put((knn.build(data), asked))
    ours, fast, ranked = (
        jax.jit(partial(knn.nearest, **options))
        for options in ({}, {"mode": "fast"}, {"k": min(RANKS, rows)})
    )
    calls = {
        "ours": lambda: ours(bank, placed),
        "ours_fast": lambda: fast(bank, placed),
        "faiss_flat": rival(faiss_flat, data, asked),
        "torch_cdist": rival(torch_cdist, data, asked),
    }
    results = contest(calls, rounds)
    order = np.asarray(ranked(bank, placed).number)
    found = order == np.asarray(fast(bank, placed).number)
    rank = np.where(found.any(1), found.argmax(1), order.shape[1])
    flops = 2 * queries * rows * dimensions
    return {
        "queries": queries,
        "rows": rows,
        "dimensions": dimensions,
        "contestants": results,
        "flops_per_second": flops / results["ours"]["seconds_median"],
        "fast_share_of_queries_changed": float((rank > 0).mean()),
        "fast_largest_rank_change": int(rank.max()),
    }


def _coreset(
    rows: int, dimensions: int, picks: int, timed_picks: int, rounds: int
) -> dict:
    """Returns one size's contest, and what share of the memory's bandwidth it is."""
    data = _normal(np.empty((rows, dimensions), np.float32))
    select = coreset.greedy(picks / rows)
    placed, begin = jax.device_put(
        select.prepare(jax.random.key(0), State(), {"rows": data})
    )
    ours = partial(chooser(select), placed, begin)
    chosen = np.asarray(ours().picked)
    plain = rival(torch_greedy, data, timed_picks)
    same = None if isinstance(plain, str) else plain() == list(chosen[:timed_picks])
    results = contest(
        {"ours": ours, "torch_loop": plain},
        rounds,
        {"torch_loop": len(chosen) / timed_picks},
    )
    stream = bandwidth(rounds)
    rate = 4 * rows * dimensions * len(chosen) / results["ours"]["seconds_median"]
    return {
        "rows": rows,
        "dimensions": dimensions,
        "picks": len(chosen),
        "torch_loop_picks_timed": timed_picks,
        "torch_loop_picks_same": same,
        "contestants": results,
        "bandwidth_bytes_per_second": stream,
        # As if every pick read all rows; above 1, as one pass serves many picks.
        "share_of_bandwidth": rate / stream,
    }


def _fpfh(clouds: int, side: int, rounds: int) -> dict:
    """Returns the contest on a batch of wavy surfaces 0.4 m away, with noise."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    noise = _normal(np.empty((clouds, side, side), np.float32))
    z = 0.4 + 0.01 * np.sin(20 * x) * np.cos(20 * y) + 2e-4 * noise
    xyz = np.stack([x * z / 2, y * z / 2, z], axis=-1).astype(np.float32)
    placed, valid = jax.device_put((xyz, np.ones((clouds, side, side, 1), bool)))
    describe = jax.jit(fpfh)
    calls = {
        "ours": lambda: describe(placed, valid),
        "open3d": rival(open3d_fpfh, xyz),
    }
    results = contest(calls, rounds)
    seconds = results["ours"]["seconds_median"]
    return {
        "clouds": clouds,
        "side": side,
        "contestants": results,
        "clouds_per_second": clouds / seconds,
    }


def _normal(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns `x`, float32, filled with normal numbers in place."""
    np.random.default_rng(seed).standard_normal(out=x, dtype=np.float32)
    return x


def _peak_bytes() -> int:
    """Returns the largest resident size that this process has had.

    Linux's usual figure would count what the parent process had, too.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return host_peak_bytes()
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])


OPERATIONS = {
    "knn": compare_knn,
    "coreset": compare_coreset,
    "fpfh": compare_fpfh,
    "memory": measure_memory,
}


def main(_) -> None:
    """Runs the command; a user's mistake ends it with one sentence and no trace."""
    values = flags.FLAGS
    try:
        report = run(values.operations, values.small, values.rounds)
        write_json(Path(values.output), report)
    except (ValueError, OSError) as mistake:
        sys.exit(f"error: {mistake}")


def define_flags() -> None:
    """Defines the flags of the command."""
    names = ", ".join(OPERATIONS)
    flags.DEFINE_list("operations", list(OPERATIONS), f"Some of {names}.")
    flags.DEFINE_bool("small", False, "Tiny sizes, to try the command itself.")
    flags.DEFINE_integer("rounds", ROUNDS, "Timed calls of each contestant.", 1)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=flag_errors.parse)
