"""How a run ends: as every command does, or stopped, so that it can go on."""

from collections.abc import Callable

from absl import logging

from ad3d_jax.fit.fit import Preempted
from data_pipelines import command as commands

PREEMPTED = 75  # asked to stop while it worked; the same command goes on from there


class Stopped(Exception):  # noqa: N818 (an interruption is no error)
    """The process was asked to stop; the same command goes on from there."""


def status_of(command: Callable[[], object]) -> int:
    """Runs a command and returns its exit status, as `data_pipelines.command` does."""
    try:
        return commands.status_of(command)
    except (Preempted, Stopped) as stopped:
        logging.warning("%s; start the same command again to go on", stopped)
        return PREEMPTED
