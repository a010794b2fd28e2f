"""The entry of a rank against a stable sort."""

import jax
import numpy as np
import pytest

from ad3d_jax.ops.order import at_rank


@pytest.mark.parametrize("entries", [1, 2, 7, 8, 300])
@pytest.mark.parametrize("ties", [False, True])
def test_against_a_stable_sort(entries, ties):
    random = np.random.default_rng(entries)
    values = random.normal(0, 1e3, (4, 9, entries)).astype(np.float32)
    values = np.round(values / 1e3) + 0.0 if ties else values
    rank = random.integers(0, entries, (4, 9)).astype(np.int32)
    order = np.argsort(values, axis=-1, kind="stable")
    expected = np.take_along_axis(order, rank[..., None], axis=-1)[..., 0]
    np.testing.assert_array_equal(jax.jit(at_rank)(values, rank), expected)


def test_extreme_values():
    values = np.array([np.inf, 1e-45, -1e38, -np.inf, 3e38, 0.0, -1e-45], np.float32)
    for rank, number in enumerate(np.argsort(values)):
        assert int(at_rank(values, np.int32(rank))) == number
