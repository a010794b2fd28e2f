"""What a call takes; imports nothing, so that it weighs on neither side."""

import time
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def timed(call: Callable[[], _Result]) -> tuple[_Result, dict[str, float]]:
    """Returns what the call returns, and its seconds, by the wall and the processor.

    Those of the processor are of all threads of this process.
    """
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return result, {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
    }
