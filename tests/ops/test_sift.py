from pathlib import Path

import jax
import numpy as np

from ad3d_jax.ops.sift import dense_sift

GOLDEN = Path(__file__).parents[1] / "golden" / "hand_made_features.npz"


def noise():
    return np.random.default_rng(8).random((64, 64)).astype(np.float32)


def test_descriptors_agree_with_the_copy_in_btf(parity):
    flat_inside = 0.01 * noise()
    flat_inside[20:44, 10:40] = 0
    pair = np.stack([flat_inside, flat_inside.T])[..., None]
    found = jax.jit(dense_sift)(pair)
    assert found.shape == (2, 64, 64, 128)
    expected = np.load(GOLDEN)["sift"]
    np.testing.assert_allclose(found[0, ::21, ::21], expected, atol=5e-5)
    source = "eliahuhorwitz/3D-ADS 612eb7b"
    parity("BTF", source, "dense SIFT", found[0, ::21, ::21], expected)


def test_descriptors_with_bins_apart_agree_with_kornia():
    found = dense_sift(noise()[None, ..., None], spacing=4)
    assert found.shape == (1, 55, 55, 128)
    expected = np.load(GOLDEN)["sift_apart"]
    np.testing.assert_allclose(found[0, ::18, ::18], expected, atol=5e-6)


def test_a_descriptor_has_unit_length_and_ignores_scale():
    found = np.asarray(dense_sift(noise()[None, ..., None]))
    np.testing.assert_allclose(np.sum(found**2, axis=-1), 1, atol=1e-5)
    brighter = dense_sift(3 * noise()[None, ..., None] + 2)
    np.testing.assert_allclose(brighter, found, atol=2e-2)


def test_a_slope_votes_for_its_direction_alone():
    y, x = np.mgrid[:16, :16].astype(np.float32)
    for number, slope in ((0, x), (1, x + y), (2, y), (4, -x), (6, -y)):
        found = dense_sift(slope[None, ..., None])[0, 8, 8].reshape(8, 16)
        shares = np.sum(np.square(found), axis=1)
        np.testing.assert_allclose(shares, np.eye(8)[number], atol=1e-5)
