"""A bank without rows is a named error wherever a system meets it."""

import jax
import numpy as np
import pytest

from ad3d_jax.base import without_truth
from ad3d_jax.devices import engines
from ad3d_jax.fit.fit import Options, fit
from ad3d_jax.systems import btf
from ad3d_jax.testing import make_batch
from ad3d_jax.testing.samples import PaddedDataset

SYSTEM = btf.btf(btf.Config(features="raw", backbone="", cells=4, precision="float32"))
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batch():
    return without_truth(make_batch(2))


@pytest.fixture(scope="module")
def state(batch):
    return SYSTEM.init(KEY, batch)


def test_samples_that_do_not_count_fill_no_bank(state, batch):
    padding = batch._replace(weight=np.zeros(2, np.float32))
    options = Options(batch_size=2, progress=False)
    with pytest.raises(ValueError, match="train holds no samples to fit btf"):
        fit(
            *(SYSTEM, state, KEY, PaddedDataset({"train": padding}), options),
            engines.make_engine("jit"),
        )


def test_no_rows_fill_no_bank(state):
    (phase,) = SYSTEM.phases
    with pytest.raises(ValueError, match="N > 0, found"):
        phase.absorb(KEY, state, {"rows": np.zeros((0, 16, 16), np.float32)})


def test_nothing_is_scored_by_a_bank_that_was_not_filled(state, batch):
    with pytest.raises(ValueError, match="has 0 rows"):
        SYSTEM.score(KEY, state, batch)
