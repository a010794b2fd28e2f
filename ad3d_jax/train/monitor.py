"""What a running phase says and when it must stop: bar, log, patience, signals."""

import signal
import threading
import time
from collections import deque
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from ad3d_jax.base import Array
from ad3d_jax.train.step import Report

# Reports that may be outstanding; the host waits beyond, so that batches do not pile up
# on the device.
STEPS_IN_FLIGHT = 3
SECONDS_BETWEEN_READS = 1.0
SECONDS_BETWEEN_LINES = 10.0  # of the log, while rows are chosen


class NonFiniteError(ValueError):
    """The loss stayed infinite or undefined for too many steps in a row."""


class Preempted(Exception):  # noqa: N818 (an interruption is no error)
    """The process was asked to stop; what was done is saved as far as it can be."""


class Monitor:
    """Reads the reports of a Train phase, a few steps late so that no step waits."""

    def __init__(
        self, phase: str, start: int, steps: int, batch_size: int, options, log
    ):
        self._phase, self._options, self._log = phase, options, log
        self._batch_size = batch_size
        self._waiting: deque = deque()  # (step, ids, report)
        self._logged: list[Mapping[str, float]] = []
        self._read_at = self._logged_at = time.monotonic()
        self._saved = None
        self._bar = tqdm(
            total=steps,
            initial=start,
            desc=phase,
            unit="step",
            mininterval=SECONDS_BETWEEN_READS,
            disable=not options.progress,
        )

    def add(self, step: int, ids: Array, report: Report) -> None:
        """Takes the report of step `step` (counted from 1) on the rows `ids`.

        Raises:
            NonFiniteError: see `drain`.
        """
        self._waiting.append((step, ids, report))
        if len(self._waiting) > STEPS_IN_FLIGHT:
            jax.block_until_ready(self._waiting[-1 - STEPS_IN_FLIGHT][2])
        log_due = step % self._options.log_every == 0
        if log_due or time.monotonic() - self._read_at > SECONDS_BETWEEN_READS:
            self.drain()
        if log_due:
            self._write(step)

    def drain(self) -> None:
        """Reads all reports that are outstanding.

        Raises:
            NonFiniteError: `patience` steps in a row were not finite.
        """
        waiting, self._waiting = list(self._waiting), deque()
        reports = jax.device_get([report for _, _, report in waiting])
        for (step, ids, _), report in zip(waiting, reports, strict=True):
            self._check(step, ids, report)
            self._logged.append({k: float(v) for k, v in report.values.items()})
        self._read_at = time.monotonic()
        if waiting:
            self._show(len(waiting))

    def saved(self, number: int) -> None:
        """Notes that checkpoint `number` was saved."""
        self._saved = number

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def _check(self, step: int, ids: Array, report: Report) -> None:
        if not report.bad:
            return
        row = ", ".join(str(i) for i in np.asarray(ids))
        values = {k: float(v) for k, v in report.values.items()}
        logging.warning(
            "%s: step %d is not finite and was not applied", self._phase, step
        )
        if report.bad >= self._options.patience:
            kept = "none" if self._saved is None else f"number {self._saved}"
            raise NonFiniteError(
                f"phase {self._phase}: the loss, its gradient or the new state was not "
                f"finite for {int(report.bad)} steps in a row, the last of them step "
                f"{step} with {values} on the samples {row}; last good checkpoint: "
                f"{kept}"
            )

    def _show(self, steps: int) -> None:
        self._bar.set_postfix(
            {k: f"{v:.4g}" for k, v in self._logged[-1].items() if "loss" in k},
            refresh=False,
        )
        self._bar.update(steps)

    def _write(self, step: int) -> None:
        now = time.monotonic()
        seconds, self._logged_at = now - self._logged_at, now
        count = len(self._logged)
        # A mean over the finite values: a skipped step must not hide the others.
        means = {}
        for name in self._logged[-1]:
            values = [v[name] for v in self._logged if np.isfinite(v[name])]
            means[name] = float(np.mean(values)) if values else None
        self._logged = []
        rate = count * self._batch_size / max(seconds, 1e-9)
        if self._log is not None:
            self._log.write(
                kind="train",
                phase=self._phase,
                step=step,
                images_per_second=rate,
                **means,
            )


class Progress:
    """Shows and logs how far a long choice of rows has come."""

    def __init__(self, name: str, phase: str, done: int, total: int, options, log):
        self._phase, self._total, self._log = phase, total, log
        self._logged_at = time.monotonic()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=name,
            unit="row",
            mininterval=SECONDS_BETWEEN_READS,
            disable=not options.progress,
        )

    def show(self, done: int) -> None:
        """Takes how many are done; a line goes to the log now and then."""
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        due = now - self._logged_at > SECONDS_BETWEEN_LINES or done >= self._total
        if due and self._log is not None:
            self._logged_at = now
            self._log.write(
                kind="choice", phase=self._phase, done=done, total=self._total
            )

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


class Interruption:
    """Within it SIGINT and SIGTERM raise a flag; a second SIGINT interrupts at once."""

    def __init__(self):
        self.wanted = False
        self._before: dict = {}

    def __enter__(self):
        """Takes the signals over, where the thread may."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number, _):
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True
