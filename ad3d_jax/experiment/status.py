"""How a run ends: as every command does, or stopped, so that it can go on."""

import os
from collections.abc import Callable

import jax
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
    except (AssertionError, RuntimeError):
        wanted = os.environ.get("JAX_PLATFORMS")
        if not wanted or has_devices():
            raise
        sentence = f"JAX_PLATFORMS={wanted}: jax finds no such device on this machine"
        return commands.refuse(sentence, commands.MISTAKE)


def has_devices() -> bool:
    """Returns whether jax finds a device to run on."""
    try:
        return bool(jax.devices())
    except (AssertionError, RuntimeError):  # the former where the plugin is missing
        return False
