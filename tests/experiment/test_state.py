"""The trained state of a bank: other shapes than init's, and no file but its own."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from reference_systems import bank, neighbours

from ad3d_jax.base import scoring, without_truth
from ad3d_jax.devices import engines
from ad3d_jax.experiment.state import fitted_state
from ad3d_jax.fit.fit import Options, fit
from ad3d_jax.ops.knn import Bank
from ad3d_jax.testing import MemoryDataset, make_batch
from ad3d_jax.workdir import names
from ad3d_jax.workdir.checkpoint import save_tree

CONFIG = ConfigDict(
    {
        "seed": 0,
        "hyper": {"extra": 0.5},
        "weights": {"adapter": "nowhere.safetensors"},
    }
)
BATCH = without_truth(make_batch(4, size=12))


def trained(system):
    """Returns a fitted state with a hyperparameter and a frozen part of the config."""
    state = system.init(jax.random.key(1), BATCH)
    state = state._replace(hyper={**state.hyper, "extra": np.float32(0.5)})
    return fit(
        system,
        state,
        jax.random.key(3),
        MemoryDataset({"train": make_batch(7, size=12)}),
        Options(batch_size=4, progress=False),
        engines.make_engine("jit"),
    )


@pytest.mark.parametrize("make", [neighbours, lambda: bank(steps=2)])
def test_a_trained_bank_is_loaded_without_any_other_file(make, tmp_path):
    system = make()
    state = trained(system)
    save_tree(tmp_path / names.FINAL, state)
    found = fitted_state(CONFIG, system, BATCH, tmp_path)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    score = jax.jit(scoring(system))
    key = jax.random.key(5)
    one, other = (score(key, each, BATCH) for each in (found, state))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_loaded_bank_is_a_bank_on_the_host_with_the_configured_chunk(tmp_path):
    save_tree(tmp_path / names.FINAL, trained(neighbours()))
    other = neighbours(chunk_bytes=2**13)
    found = fitted_state(CONFIG, other, BATCH, tmp_path).memory["bank"]
    assert isinstance(found, Bank) and found.chunk_bytes == 2**13
    assert isinstance(found.rows, np.ndarray) and found.rows.shape == (31, 8)


def test_the_state_of_another_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no fitted state"):
        fitted_state(CONFIG, neighbours(), BATCH, tmp_path)
    save_tree(tmp_path / names.FINAL, trained(bank(steps=1)))
    with pytest.raises(ValueError, match="in params, adapter is unknown"):
        fitted_state(CONFIG, neighbours(), BATCH, tmp_path)
