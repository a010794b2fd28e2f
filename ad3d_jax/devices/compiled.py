"""A compiled function that counts how often it was traced."""

from collections.abc import Callable

import jax
from absl import logging

from ad3d_jax.devices import processes

TRACES_TOLERATED = 2


class Compiled:
    """A compiled function that counts how often it was traced.

    A function that is traced again and again loses minutes without a word, so the
    third trace is reported.
    """

    def __init__(
        self,
        name: str,
        function: Callable,
        transform: Callable,
        arrange: Callable = lambda *arguments: arguments,
    ):
        self.traces = 0
        self._arrange = arrange  # from the arguments of a call to the function's

        def counted(*arguments):
            self.traces += 1
            if self.traces == TRACES_TOLERATED + 1:
                logging.warning(
                    "%s is traced for the third time: a shape, a dtype or a Python "
                    "number changes between calls, and each change compiles anew",
                    name,
                )
            return function(*arguments)

        self._run = transform(counted)

    def __call__(self, *arguments):
        """Runs the function."""
        arranged = self._arrange(*arguments)
        if not self.traces and jax.process_count() > 1:
            # One that runs already gives up, half a minute later, on one that compiles.
            self._run.lower(*arranged).compile()
            processes.wait()
        return self._run(*arranged)
