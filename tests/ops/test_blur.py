import jax
import jax.numpy as jnp
import numpy as np
import PIL
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from ad3d_jax.ops.blur import (
    blur_8bit,
    filter_separable,
    gaussian_blur,
    largest_mean,
    mean_filter,
)


def images(shape=(2, 23, 30, 2)):
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 3, 21])
def test_mean_filter_agrees_with_scipy(size):
    x = images()
    expected = ndimage.uniform_filter(
        x.astype(np.float64), size=(1, size, size, 1), mode="constant"
    )
    np.testing.assert_allclose(mean_filter(x, size), expected, atol=1e-6)


def test_corner_of_a_mean_of_ones():
    ones = jnp.ones((1, 64, 64, 1))
    assert float(mean_filter(ones, 21)[0, 0, 0, 0]) == pytest.approx(0.2744, abs=5e-5)


@pytest.mark.parametrize("sigma", [0.8, 2.0, 4.0])
@pytest.mark.parametrize(
    ("border", "mode"),
    [("reflect", "reflect"), ("mirror", "mirror"), ("zero", "constant")],
)
def test_gaussian_blur_agrees_with_scipy(sigma, border, mode):
    x = images()
    expected = ndimage.gaussian_filter(
        x.astype(np.float64), (0, sigma, sigma, 0), mode=mode, truncate=4.0
    )
    blurred = gaussian_blur(x, sigma, truncate=4.0, border=border)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_skewed_kernels_agree_with_scipy():
    x, generator = images(), np.random.default_rng(1)
    rows, columns = generator.random(5), generator.random(9)
    expected = ndimage.correlate1d(x.astype(np.float64), rows, axis=1, mode="constant")
    expected = ndimage.correlate1d(expected, columns, axis=2, mode="constant")
    traced = jax.jit(filter_separable)(x, rows, columns)
    np.testing.assert_allclose(traced, expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_filtered_is_refused():
    x = np.zeros((1, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match="odd"):
        mean_filter(x, 4)
    with pytest.raises(ValueError, match="radius 16"):
        gaussian_blur(x, 4.0)
    with pytest.raises(ValueError, match="border"):
        gaussian_blur(x, 0.5, border="wrap")
    with pytest.raises(ValueError, match="above 0, found -1"):
        gaussian_blur(x, -1.0)


def test_no_sigma_leaves_a_map_as_it_is():
    x = images()
    expected = ndimage.gaussian_filter(x, (0, 0, 0, 0))
    np.testing.assert_array_equal(gaussian_blur(x, 0.0), expected)


def by_pillow(map, radius=4):
    """Returns the 8-bit levels of one map [H,W] after Pillow's Gaussian."""
    levels = (map / map.max() * np.float32(255)).astype(np.uint8)
    blurred = Image.fromarray(levels).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(blurred)


@pytest.mark.parametrize("radius", [4, 1.7, 0.6, 9])
@pytest.mark.parametrize("shape", [(224, 224), (37, 50), (3, 2), (1, 9)])
def test_8bit_blur_equals_pillow_in_every_pixel(radius, shape, parity):
    generator = np.random.default_rng(3)
    flat = generator.random((2, *shape))
    maps = np.concatenate([flat, 7 * flat**9]).astype(np.float32)
    blurred = jax.jit(blur_8bit, static_argnums=1)(maps[..., None], radius)
    for map, found in zip(maps, np.asarray(blurred)[..., 0], strict=True):
        levels = found.astype(np.float64) * 255 / map.max()
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
        expected = by_pillow(map, radius)
        np.testing.assert_array_equal(np.round(levels), expected)
        parity("BTF", PIL, "8-bit blur of the map", np.round(levels), expected)


def test_8bit_blur_of_a_step_and_of_constants():
    step = np.zeros((1, 60, 60, 1), np.float32)
    step[:, :, 30:] = 1
    across = np.asarray(blur_8bit(step))[0, 30, 18:42, 0] * 255
    before = [0, 0, 1, 3, 7, 14, 23, 35, 51, 70, 92, 116]
    after = [139, 163, 185, 204, 220, 232, 241, 248, 252, 254, 255, 255]
    np.testing.assert_allclose(across, before + after, atol=1e-4)
    constants = np.array([0.37, 0.0, -2.0], np.float32).reshape(3, 1, 1, 1)
    constants = np.broadcast_to(constants, (3, 20, 20, 1))
    np.testing.assert_allclose(blur_8bit(constants), np.maximum(constants, 0))


def test_the_largest_mean_is_of_the_fullest_window():
    x = np.zeros((2, 9, 9, 1), np.float32)
    x[0, 4:6, 4:6], x[1, 0, 0] = 1.0, 1.0
    np.testing.assert_allclose(largest_mean(x, 3), [4 / 9, 1 / 9], rtol=1e-6)
