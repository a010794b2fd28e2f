"""The greedy choice against the plain loop in torch.

Some picks of the loop are timed and scaled, since each costs the same.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import State
from ad3d_jax.ops import coreset
from experiments.benchmarks.baselines.comparison import (
    Call,
    baseline,
    in_turns,
    normal,
    side_by_side,
)
from experiments.benchmarks.speed import chooser

# Rows, dimensions, picks, and the picks of the plain loop that are timed.
SIZES = ((174_832, 33, 17_483, 200), (100_000, 128, 10_000, 100))
SMALL = ((2000, 8, 200, 20),)
STREAM_BYTES = 2**28


def compare(small: bool, rounds: int) -> list[dict]:
    """Returns the timings of the greedy choice for each size."""
    sizes = SMALL if small else SIZES
    return [_coreset(*size, rounds=rounds) for size in sizes]


def _coreset(
    rows: int, dimensions: int, picks: int, timed_picks: int, rounds: int
) -> dict:
    """Returns one size's timings, and what share of the memory's bandwidth it is."""
    data = normal(np.empty((rows, dimensions), np.float32))
    select = coreset.greedy(picks / rows)
    placed, begin = jax.device_put(select.prepare(jax.random.key(0), State(), data))
    ours = partial(chooser(select), placed, begin)
    chosen = np.asarray(ours().picked)
    plain = baseline(torch_greedy, data, timed_picks)
    same = None if isinstance(plain, str) else plain() == list(chosen[:timed_picks])
    results = side_by_side(
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
        "implementations": results,
        "bandwidth_bytes_per_second": stream,
        # As if every pick read all rows; above 1, as one pass serves many picks.
        "share_of_bandwidth": rate / stream,
    }


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


def bandwidth(rounds: int) -> float:
    """Returns the bytes a second of a stream: two arrays are read, one is written."""
    a, b = (jnp.full(STREAM_BYTES // 4, value, jnp.float32) for value in (1, 2))
    triad = jax.jit(lambda a, b: a + 3 * b)
    seconds = in_turns({"triad": lambda: triad(a, b)}, rounds)["triad"]
    return 3 * STREAM_BYTES / min(seconds)
