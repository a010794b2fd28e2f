"""What a running phase says and when it must stop: bar, log, patience, signals."""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from ad3d_jax.base import Array
from ad3d_jax.devices import processes
from ad3d_jax.fit.step import Report

# Reports that may be outstanding; the host waits beyond, so that batches do not pile up
# on the device.
STEPS_IN_FLIGHT = 3
SECONDS_BETWEEN_READS = 1.0
SECONDS_BETWEEN_LINES = 10.0  # of the log, while rows are chosen


class NonFiniteError(ValueError):
    """The loss stayed infinite or undefined for too many steps in a row."""


class Preempted(Exception):  # noqa: N818 (an interruption is no error)
    """The process was asked to stop; what was done is saved as far as it can be."""


NOT_APPLIED = "not applied"  # event of a step that was not finite


class Account:
    """What one training says to its log, and how long it may be not finite.

    Args:
        phase: what messages call it.
        steps: its last step; what is reported later is not its own.
        batch_size: its rows of a step.
        options: `fit.run.Options`.
        log: `workdir.log.Log` or None.

    `error` is set when `patience` steps in a row were not finite; it says no more then.
    """

    def __init__(self, phase: str, steps: int, batch_size: int, options, log):
        self.error: NonFiniteError | None = None
        self.latest: Mapping[str, float] = {}
        self.saved: int | None = None  # number of the last checkpoint
        self._phase, self._options, self._log = phase, options, log
        self._steps, self._batch_size = steps, batch_size
        self._logged: list[Mapping[str, float]] = []

    def take(self, step: int, ids: Array, report: Report) -> None:
        """Takes the report, on the host, of a step on the rows `ids`."""
        if self.error is not None or step > self._steps:
            return
        self.latest = {k: float(v) for k, v in report.values.items()}
        if report.bad:
            self._refuse(step, ids, int(report.bad))
        if self.error is None:
            self._logged.append(self.latest)

    def write(self, step: int, seconds: float) -> None:
        """Writes the means since the last line to the log, up to its own last step."""
        logged, self._logged = self._logged, []
        over = self.error is not None or step > self._steps
        if over or not logged or self._log is None:
            return
        # A mean over the finite values: a skipped step must not hide the others.
        means = {}
        for name in logged[-1]:
            values = [v[name] for v in logged if np.isfinite(v[name])]
            means[name] = float(np.mean(values)) if values else None
        rate = len(logged) * self._batch_size / max(seconds, 1e-9)
        self._log.write(
            kind="train", phase=self._phase, step=step, images_per_second=rate, **means
        )

    def _refuse(self, step: int, ids: Array, bad: int) -> None:
        logging.warning(
            "%s: step %d is not finite and was not applied", self._phase, step
        )
        if self._log is not None:
            told = {"event": NOT_APPLIED, "phase": self._phase, "step": step}
            self._log.write(kind="event", **told)
        if bad >= self._options.patience:
            kept = "none" if self.saved is None else f"number {self.saved}"
            self.error = NonFiniteError(
                f"phase {self._phase}: the loss, its gradient or the new state was not "
                f"finite for {bad} steps in a row, the last of them step {step} with "
                f"{self.latest} on the samples {', '.join(map(str, np.asarray(ids)))}; "
                f"last good checkpoint: {kept}"
            )


class Monitor:
    """Reads the reports of a Train phase, a few steps late so that no step waits.

    Args:
        name: of the bar.
        steps: first and last step; the first was done before.
        accounts: of the trainings that step together; fit has one.
        options: `fit.run.Options`.
        divide: gives the report of each training from that of all.
    """

    def __init__(
        self,
        name: str,
        steps: tuple[int, int],
        accounts: Sequence[Account],
        options,
        divide: Callable[[Report], Sequence[Report]] = lambda report: (report,),
    ):
        self._accounts, self._options, self._divide = accounts, options, divide
        self._waiting: deque = deque()  # (step, ids, report)
        self._read_at = self._logged_at = time.monotonic()
        self._bar = tqdm(
            total=steps[1],
            initial=steps[0],
            desc=name,
            unit="step",
            mininterval=SECONDS_BETWEEN_READS,
            disable=not options.progress,
        )

    def add(self, step: int, ids: Sequence[Array], report: Report) -> None:
        """Takes the report of step `step` (counted from 1); `ids` of each training.

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
            now = time.monotonic()
            seconds, self._logged_at = now - self._logged_at, now
            for account in self._accounts:
                account.write(step, seconds)

    def drain(self) -> None:
        """Reads all reports that are outstanding.

        Raises:
            NonFiniteError: the last training that went on was not finite for `patience`
                steps in a row.
        """
        waiting, self._waiting = list(self._waiting), deque()
        reports = jax.device_get([report for _, _, report in waiting])
        for (step, ids, _), report in zip(waiting, reports, strict=True):
            parts = zip(self._accounts, ids, self._divide(report), strict=True)
            for account, rows, part in parts:
                account.take(step, rows, part)
        self._read_at = time.monotonic()
        if waiting:
            self._show(len(waiting))
        errors = [account.error for account in self._accounts]
        if all(errors):
            raise errors[-1]

    def saved(self, number: int | None) -> None:
        """Notes that checkpoint `number` was saved."""
        for account in self._accounts:
            account.saved = number

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def _show(self, steps: int) -> None:
        said = [a.latest for a in self._accounts if a.error is None]
        names = [name for name in (said[0] if said else ()) if "loss" in name]
        means = {name: np.mean([values[name] for values in said]) for name in names}
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in means.items()}, refresh=False)
        self._bar.update(steps)


class Progress:
    """Shows and logs how far a long choice of rows has come."""

    def __init__(
        self, name: str, phase: str, leaf: str, done: int, total: int, options, log
    ):
        self._phase, self._leaf, self._total, self._log = phase, leaf, total, log
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
                kind="choice",
                phase=self._phase,
                leaf=self._leaf,
                done=done,
                total=self._total,
            )

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


class Interruption:
    """Within it SIGINT and SIGTERM raise a flag; a second SIGINT interrupts at once."""

    def __init__(self):
        self._noted = False
        self._agreement = processes.Agreement()
        self._before: dict = {}

    def wanted(self) -> bool:
        """Returns whether to stop; of several processes all are told at one point.

        They must ask equally often.
        """
        return self._agreement(self._noted)

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
        if self._noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = True
