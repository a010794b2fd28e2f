"""What whole fits of the reference systems run on."""

import pytest
from reference_systems import MemoryDataset, make_batch

from ad3d_jax.devices import engines


@pytest.fixture(scope="module")
def data():
    """Returns six samples of 8 x 8 pixels."""
    return MemoryDataset({"train": make_batch(6, size=8)})


@pytest.fixture(scope="module")
def engine():
    """Returns an engine of one device."""
    return engines.make_engine("jit")
