"""Scores in bfloat16 are those in float32 within what the docs promise."""

import functools

import jax
import numpy as np
import pytest
from systems_table import configured

from ad3d_jax.base import scoring, without_truth
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.state import build_system
from ad3d_jax.testing import make_batch

# Of the range of the float32 map, and of the image score; docs/reliability.md has it.
TOLERANCE = 0.05
HALF = ("dbrn", "easynet", "draem", "das3d", "dsr", "dsr3d")


@functools.cache
def board():
    return without_truth(make_batch(2, size=32, rails=True, defect=True))


def scores_of(system, state):
    return jax.device_get(jax.jit(scoring(system))(jax.random.key(1), state, board()))


@pytest.mark.parametrize("name", HALF)
def test_scores_in_bfloat16_are_near_those_in_float32(name):
    config = load(f"{name}:tiny")
    system = configured(f"{name}:tiny")()
    state = jax.jit(system.init)(jax.random.key(0), board())
    full = scores_of(system, state)
    config.model.dtype = "bfloat16"
    half = scores_of(build_system(config), state)
    assert half.map.dtype == half.image.dtype == np.float32
    assert (half.map != full.map).any()  # it is computed otherwise
    spread = np.ptp(full.map)
    error = np.abs(half.map - full.map).max() / spread
    image = np.abs(half.image / full.image - 1).max()
    print(name, "spread", spread, "error", error, "image", image)
    assert error < TOLERANCE and image < TOLERANCE
