"""Rates over the steps, and Adam with them."""

import jax.numpy as jnp
import pytest

from ad3d_jax.schedules import SCHEDULES, adam


def rate_at(optimizer, count):
    """Returns the size of the step number `count` on a gradient that stays the same."""
    params = {"x": jnp.zeros(())}
    state = optimizer.init(params)
    for _ in range(count + 1):
        change, state = optimizer.update({"x": jnp.ones(())}, state, params)
    return -float(change["x"])


@pytest.mark.parametrize(
    ("schedule", "decay", "expected"),
    [
        ("step", {}, {0: 1.0, 7: 1.0, 8: 0.2, 9: 0.04}),
        ("step", {"factor": 0.1, "milestones": (0.5,)}, {4: 1.0, 5: 0.1, 9: 0.1}),
        # The first of 50 warm-up steps; what "step" alone has is no matter here.
        ("cosine", {"factor": 0.1}, {0: 0.02}),
    ],
)
def test_adam_moves_by_the_rate(schedule, decay, expected):
    assert set(SCHEDULES) == {"step", "cosine"}
    optimizer = adam(schedule, 1.0, 10, **decay)
    for count, rate in expected.items():
        assert rate_at(optimizer, count) == pytest.approx(rate, rel=1e-4)
