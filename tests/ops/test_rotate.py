import jax
import numpy as np
import pytest
from scipy import ndimage

from ad3d_jax.ops.rotate import rotate


@pytest.mark.parametrize("shape", [(12, 12, 3), (9, 14, 1), (1, 5, 2)])
@pytest.mark.parametrize("degrees", [0.0, 17.0, -63.0, 90.0, 180.0])
@pytest.mark.parametrize(
    ("fill", "mode"), [("zero", "grid-constant"), ("edge", "nearest")]
)
def test_agrees_with_scipy(shape, degrees, fill, mode):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    expected = ndimage.rotate(image, degrees, reshape=False, order=1, mode=mode)
    np.testing.assert_allclose(rotate(image, degrees, fill), expected, atol=2e-5)


def test_quarter_turn_is_that_of_numpy():
    image = np.random.default_rng(1).random((7, 7, 2)).astype(np.float32)
    np.testing.assert_allclose(rotate(image, 90.0), np.rot90(image), atol=1e-5)


def test_rows_turn_by_their_own_angle():
    images = np.random.default_rng(2).random((3, 8, 8, 1)).astype(np.float32)
    degrees = np.array([0.0, 30.0, -80.0], np.float32)
    turned = jax.jit(jax.vmap(rotate))(images, degrees)
    for row in range(3):
        expected = rotate(images[row], degrees[row])
        np.testing.assert_allclose(turned[row], expected, atol=1e-6)


def test_unknown_fill_is_refused():
    with pytest.raises(ValueError, match="fill"):
        rotate(np.zeros((2, 2, 1), np.float32), 1.0, "mirror")
