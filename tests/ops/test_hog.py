from pathlib import Path

import jax
import numpy as np

from ad3d_jax.ops.hog import hog

GOLDEN = Path(__file__).parents[1] / "golden" / "hand_made_features.npz"


def surface(side=64):
    """Returns the depth of which the golden values were made, [1,side,side,1]."""
    generator = np.random.default_rng(7)
    y, x = np.mgrid[:side, :side]
    z = 0.65 + 0.01 * np.sin(x / 5) + 0.004 * np.cos(y / 3)
    z = z + generator.normal(0, 2e-4, (side, side))
    z[np.hypot(y - side / 2, x - side / 2) > 0.42 * side] = 0
    z[generator.random((side, side)) < 0.05] = 0
    return z.astype(np.float32)[None, ..., None]


def test_histograms_agree_with_scikit_image(parity):
    expected = np.load(GOLDEN)["hog"]
    found = jax.jit(hog)(np.concatenate([surface(), 0 * surface()]))
    assert found.shape == (2, 8, 8, 8)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    parity("BTF", "scikit-image 0.26.0", "HoG", found[0], expected)
    np.testing.assert_array_equal(found[1], 0)


def test_a_slope_votes_for_its_direction_alone():
    y, x = np.mgrid[:24, :24].astype(np.float32)
    # Directions 0, 45, 90 and 135 degrees begin the ranges 0, 2, 4 and 6; opposite
    # directions are the same.
    for number, slope in ((0, x), (2, x + y), (4, y), (6, y - x)):
        for sign in (1, -1):
            inner = np.asarray(hog(sign * slope[None, ..., None]))[0, 1, 1]
            np.testing.assert_allclose(inner, np.eye(8)[number], atol=1e-6)


def test_incomplete_cells_are_left_out():
    whole = hog(surface())
    assert hog(surface()[:, :, :61]).shape == (1, 8, 7, 8)
    assert hog(surface(), cell=16, orientations=9).shape == (1, 4, 4, 9)
    cut = hog(surface()[:, :61])
    np.testing.assert_allclose(cut[:, :7], whole[:, :7], atol=1e-6)
