"""Timing of implementations in turns, so that a busy machine slows them all."""

import time
from collections.abc import Callable

import jax
import numpy as np

from data_pipelines.errors import DatasetError

Call = Callable[[], object]


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


def side_by_side(
    calls: dict[str, Call | str], rounds: int, scale: dict[str, float] | None = None
) -> dict:
    """Returns {name: {"seconds_median", "ratio_to_ours"} or nulls and a "reason"}.

    Args:
        calls: of the implementations, "ours" among them; a text is why one is missing.
        rounds: how often each is called.
        scale: what to multiply a implementation's seconds by.
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


def baseline(make: Callable[..., Call], *arguments) -> Call | str:
    """Returns the baseline's call, or why there is none."""
    try:
        return make(*arguments)
    except (ImportError, OSError, DatasetError) as error:
        return str(error)


def normal(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns `x`, float32, filled with normal numbers in place."""
    np.random.default_rng(seed).standard_normal(out=x, dtype=np.float32)
    return x
