"""Functions of this library in processes of their own.

A worker gets its arguments as JSON by its standard input, and nothing of the command
line, of the main module or of the memory of who starts it: a notebook, a script without
a guard and a command start the same.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from absl import logging

from ad3d_jax.experiment.status import status_of

Process = subprocess.Popen


def start(
    function: str,
    arguments: Mapping[str, Any],
    output: IO | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Starts a process that calls a function and ends with the status of `status_of`.

    Args:
        function: module and name, as "package.module:function".
        arguments: of the function by name, as JSON has them.
        output: file of what it says; None = where this process says it.
        environment: variables; None = this process's.
    """
    variables = dict(os.environ if environment is None else environment)
    variables["PYTHONPATH"] = os.pathsep.join(
        filter(None, map(os.path.abspath, sys.path))
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "ad3d_jax.experiment.workers", function],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        env=variables,
        text=True,
        # A signal comes from whoever started it alone, and once.
        start_new_session=True,
    )
    try:
        with process.stdin as pipe:
            json.dump(dict(arguments), pipe)
    except BrokenPipeError:
        pass  # it has ended already; its status says how
    return process


@contextlib.contextmanager
def stopping(running: Sequence[Process]) -> Iterator[Callable[[], bool]]:
    """While it holds, SIGTERM and SIGINT ask the running processes to save and stop.

    Gives a function that returns whether that has happened. Outside the main thread,
    where Python handles no signal, it does nothing.

    Args:
        running: those that run now; may change.
    """
    asked = threading.Event()

    def stop(*_) -> None:
        asked.set()
        for process in list(running):
            process.terminate()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(function: str) -> int:
    """Calls the function with what stands on standard input; returns the status."""
    logging.set_verbosity(logging.WARNING)
    module, _, name = function.partition(":")
    arguments = json.load(sys.stdin)
    call = getattr(importlib.import_module(module), name)
    return status_of(lambda: call(**arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
