"""A system whose own functions refuse what JAX does without being asked."""

import functools
from collections.abc import Callable

import jax

from ad3d_jax.base import Phase, System, Train

OWN = ("emit", "absorb", "finish", "fold", "weigh")  # functions of phases


def strict(system: System) -> System:
    """Returns a system that refuses implicit promotion of dtypes in what is its own.

    The optimisers are not: optax multiplies floats by its whole count of steps.
    """
    own = {
        name: _strictly(getattr(system, name))
        for name in ("init", "score", "cache", "synthesise")
    }
    return system._replace(**own, phases=tuple(map(_strict_phase, system.phases)))


def _strict_phase(phase: Phase) -> Phase:
    own = {
        name: _strictly(getattr(phase, name)) for name in OWN if name in phase._fields
    }
    if isinstance(phase, Train):
        own["updates"] = tuple(
            update._replace(loss=_strictly(update.loss)) for update in phase.updates
        )
    return phase._replace(**own)


def _strictly(function: Callable | None) -> Callable | None:
    """Returns the function under the strict rule, while it is traced."""
    if function is None:
        return None

    @functools.wraps(function)
    def run(*arguments, **named):
        with jax.numpy_dtype_promotion("strict"):
            return function(*arguments, **named)

    return run
