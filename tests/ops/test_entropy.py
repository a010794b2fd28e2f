"""Entropies of even and constant values, the public ones, and the best threshold."""

import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.ops import entropy


def entropy_of(values):
    bits, counted = entropy.histogram_entropy(jnp.float32(values)[None])
    return float(bits[0]), int(counted[0])


@pytest.mark.parametrize("repeats", [1, 8])
def test_entropy_of_even_and_of_constant_values(repeats):
    even = np.tile((np.arange(256) + 0.5) / 256, repeats)
    assert entropy_of(even) == (pytest.approx(8, abs=1e-5), 256 * repeats)
    assert entropy_of(np.full(300 * repeats, 0.3)) == (0, 300 * repeats)
    outside = np.concatenate([even, np.full(100, -0.1), np.full(50, 1.1)])
    assert entropy_of(outside) == entropy_of(even)
    assert entropy_of([0, 0, 1, 1, 1 / 256]) == (pytest.approx(1.52193, abs=1e-4), 5)
    assert entropy_of([-1, 2]) == (0, 0)


def test_entropies_are_the_public_ones(parity):
    file = Path(__file__).resolve().parents[1] / "golden" / "easynet_32.npz"
    with np.load(file) as golden:
        rgb, fusion = golden["pooled_rgb"], golden["pooled_fusion"]
        expected = golden["entropies"]
    alone, _ = entropy.histogram_entropy(rgb)
    gain = entropy.entropy_gain(rgb, fusion[:, rgb.shape[1] :])
    np.testing.assert_allclose(alone, expected[:1], atol=1e-4)
    np.testing.assert_allclose(gain, expected[1:] - expected[:1], atol=1e-4)
    found = np.concatenate([alone, alone + gain])
    parity("EasyNet", "TaoTao9/EasyNet be5981d", "entropies", found, expected)


def test_the_threshold_separates_best():
    # Colour tells rows 0, 2 apart, fusion rows 1, 3; the gains say which is which.
    gain = jnp.float32([0.1, 0.5, 0.2, 0.7])
    anomalous = jnp.array([False, False, True, True])
    rgb = jnp.float32([0.1, 0.9, 0.8, 0.0])
    fusion = jnp.float32([0.9, 0.2, 0.1, 0.9])
    everyone = jnp.ones(4, bool)
    best = functools.partial(entropy.best_threshold, gain)
    found = float(best(rgb, fusion, anomalous, everyone))
    assert found == pytest.approx(0.35)  # between 0.2 and 0.5
    # What does not matter leaves the paper's 0.
    assert float(best(rgb, rgb, anomalous, everyone)) == 0
    # Colour alone is right: no gain may be enough.
    good, bad = jnp.float32([0, 0, 1, 1]), jnp.float32([1, 1, 0, 0])
    assert float(best(good, bad, anomalous, everyone)) == entropy.BITS
    assert float(best(bad, good, anomalous, everyone)) == 0
    # A row that does not count has no say.
    counted = jnp.array([True, True, True, False])
    spoilt = fusion.at[3].set(-9.0)
    assert float(best(rgb, spoilt, anomalous, counted)) == pytest.approx(0.35)
