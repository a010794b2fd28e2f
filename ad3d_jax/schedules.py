"""Learning rates over the steps of a phase, and Adam with one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.Array], jax.Array]


def step_decay(
    rate: jax.Array | float,
    steps: int,
    factor: float = 0.2,
    milestones: tuple[float, ...] = (0.8, 0.9),
) -> Schedule:
    """Returns the rate that is multiplied by `factor` at each share of the steps.

    The defaults are those of DRAEM's code and its descendants.
    """

    def schedule(count):
        passed = sum((count >= m * steps) * 1.0 for m in milestones)
        return rate * factor**passed

    return schedule


def warm_cosine(rate: jax.Array | float, steps: int, warm_up: int = 50) -> Schedule:
    """Returns the rate that rises over `warm_up` steps and falls to 0 as a cosine."""

    def schedule(count):
        warm = jnp.minimum(1.0, (count + 1) / warm_up)
        return (
            rate * warm * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / steps, 1.0)))
        )

    return schedule


SCHEDULES = {"step": step_decay, "cosine": warm_cosine}


def adam(
    schedule: str, rate: jax.Array | float, steps: int, **decay
) -> optax.GradientTransformation:
    """Returns Adam whose rate follows a schedule.

    Args:
        schedule: a name in SCHEDULES.
        rate: at the beginning, or the largest one.
        steps: of the phase.
        decay: `factor` and `milestones` of "step", see `step_decay`.
    """
    options = decay if schedule == "step" else {}
    return optax.adam(SCHEDULES[schedule](rate, steps, **options))
