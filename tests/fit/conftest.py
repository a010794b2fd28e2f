"""What whole fits of the reference systems run on."""

import pytest

from ad3d_jax.devices import engines
from ad3d_jax.testing import MemoryDataset, make_batch


@pytest.fixture(scope="module")
def data():
    """Returns six samples of 8 x 8 pixels."""
    return MemoryDataset({"train": make_batch(6, size=8)})


@pytest.fixture(scope="module")
def engine():
    """Returns an engine of one device."""
    return engines.make_engine("jit")
