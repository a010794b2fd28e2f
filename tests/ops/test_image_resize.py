import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ad3d_jax.ops.resize import (
    at_size,
    bilinear_at,
    resize_bicubic,
    resize_bicubic_offset,
    resize_bilinear,
    resize_nearest,
)

SIZES = [(8, 8), (12, 20), (5, 3), (16, 7)]


def images():
    return np.random.default_rng(0).random((2, 8, 10, 3)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_reads_at_half_pixel_centres(size):
    x = images()
    rows = (np.arange(size[0]) + 0.5) * 8 / size[0] - 0.5
    columns = (np.arange(size[1]) + 0.5) * 10 / size[1] - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    for b in range(2):
        for c in range(3):
            expected = ndimage.map_coordinates(
                x[b, ..., c], grid, order=1, mode="nearest"
            )
            np.testing.assert_allclose(
                resize_bilinear(x, size)[b, ..., c], expected, atol=1e-5
            )


@pytest.mark.parametrize("size", SIZES)
def test_pixels_of_a_resized_image_without_the_image(size):
    x = images()
    random = np.random.default_rng(1)
    columns, rows = random.integers(0, size[1], 40), random.integers(0, size[0], 40)
    found = bilinear_at(x[1], np.stack([columns, rows], -1), size)
    expected = np.asarray(resize_bilinear(x, size))[1, rows, columns]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_nearest_takes_the_floor(size):
    x = images()
    resized = np.asarray(resize_nearest(x, size))
    for i in range(size[0]):
        for j in range(size[1]):
            expected = x[
                :, int(np.floor(i * 8 / size[0])), int(np.floor(j * 10 / size[1]))
            ]
            np.testing.assert_array_equal(resized[:, i, j], expected)


@pytest.mark.parametrize("size", [(12, 20), (5, 3)])
def test_host_images_of_any_rank_are_brought_to_a_size(size):
    x = images()
    expected = np.asarray(resize_bilinear(jnp.asarray(x), size))
    np.testing.assert_array_equal(at_size(x, size), expected)
    for found, part in (
        (at_size(x[1], size), expected[1]),
        (at_size(x[1, ..., 2], size), expected[1, ..., 2]),
    ):
        assert found.shape == part.shape
        np.testing.assert_allclose(found, part, atol=2e-7)
    assert at_size(x[:0], size).shape == (0, *size, 3)
    assert at_size(x[0, ..., 0] > 0.5, size).dtype == np.float32


def test_a_host_image_that_has_the_size_is_left_alone():
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert at_size(x, (3, 4)) is x and at_size(x, [3, 4]) is x


def test_nearest_keeps_booleans():
    assert resize_nearest(jnp.ones((1, 4, 4, 1), bool), (2, 3)).dtype == bool


@pytest.mark.parametrize("size", SIZES)
def test_bicubic_is_pillows(size):
    x = images()
    found = np.asarray(resize_bicubic(x, size))
    for b in range(2):
        for c in range(3):
            picture = Image.fromarray(x[b, ..., c])
            expected = picture.resize(size[::-1], Image.Resampling.BICUBIC)
            np.testing.assert_allclose(found[b, ..., c], expected, atol=1e-5)
    assert resize_bicubic(x, (8, 10)) is x


def test_the_offset_stretches_the_grid_by_a_tenth():
    """By hand: sample 0 of 2 from 4 lies at 1/2 * 4/2.1 - 1/2 = 0.452 of a cubic."""
    t, a = 0.5 * 4 / 2.1 - 0.5, -0.75
    near = [(a + 2) * d**3 - (a + 3) * d**2 + 1 for d in (t, 1 - t)]
    far = [a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a for d in (1 + t, 2 - t)]
    x = np.float32([1.0, 2.0, 5.0, 3.0])
    # The sample before the first one is the first one.
    expected = (far[0] + near[0]) * x[0] + near[1] * x[1] + far[1] * x[2]
    found = resize_bicubic_offset(x.reshape(1, 4, 1, 1), (2, 1))
    np.testing.assert_allclose(found[0, 0, 0, 0], expected, rtol=1e-6)
    x = images()
    assert resize_bicubic_offset(x, (8, 10)) is x


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_offset_form_is_torchs_with_a_scale(size, parity):
    torch = pytest.importorskip("torch")
    x = images()
    scale = (size[0] + 0.1) / 8, (size[1] + 0.1) / 10
    expected = torch.nn.functional.interpolate(
        torch.tensor(x).permute(0, 3, 1, 2), scale_factor=scale, mode="bicubic"
    ).permute(0, 2, 3, 1)
    assert expected.shape[1:3] == size
    found = resize_bicubic_offset(x, size)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    parity("ViT", torch, "positions, resized as DINO does", found, expected.numpy())
