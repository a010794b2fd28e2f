"""Resizing against brute force and Pillow."""

import numpy as np
import PIL
import pytest
from oracles.torch_models import import_networks
from PIL import Image

from data_pipelines.resize import (
    centre_crop,
    nearest_rows,
    resize_image,
    resize_linear,
    resize_nearest,
    resized_size,
)


def image(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_nearest_rule():
    assert nearest_rows(800, 224)[:5].tolist() == [0, 3, 7, 10, 14]
    for size_in, size_out in ((7, 3), (3, 7), (900, 256), (5, 5)):
        rows = [int(np.floor(i * size_in / size_out)) for i in range(size_out)]
        assert nearest_rows(size_in, size_out).tolist() == rows


def test_nearest_picks_samples_of_any_dtype():
    index = np.arange(12 * 8).reshape(12, 8, 1)
    small = resize_nearest(index, (6, 4))
    np.testing.assert_array_equal(small, index[::2, ::2])
    assert resize_nearest(index > 3, (5, 5)).dtype == bool
    assert resize_nearest(index, (12, 8)) is index


def test_shrinking_averages_areas():
    source = image(10, 14)
    # The area mean by brute force: blow each pixel up, then average whole blocks.
    blown = source.repeat(4, 0).repeat(6, 1).astype(np.float64)
    expected = blown.reshape(4, 10, 6, 14, 3).mean((1, 3))
    assert np.abs(resize_image(source, (4, 6)) - expected).max() <= 0.5 + 1e-3


def test_enlarging_is_bilinear_with_half_pixel_centres():
    source = image(9, 7)
    expected = Image.fromarray(source).resize((20, 31), Image.Resampling.BILINEAR)
    out = resize_image(source, (31, 20))
    assert out.dtype == np.uint8 and out.flags.c_contiguous
    assert np.abs(out.astype(int) - np.asarray(expected, int)).max() <= 1


def test_a_constant_image_stays_constant():
    for value in (0, 7, 255):
        for size in ((5, 30), (30, 5), (16, 16)):
            out = resize_image(np.full((16, 11, 3), value, np.uint8), size)
            assert (out == value).all() and out.shape == (*size, 3)


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(12, 9), (40, 20), (30, 70)])
def test_named_interpolations_are_pillows(name, size, parity):
    source = image(37, 53)
    kernel = getattr(Image, name.upper())
    expected = Image.fromarray(source).resize((size[1], size[0]), kernel)
    found = resize_image(source, size, name)
    np.testing.assert_array_equal(found, expected)
    parity("images", PIL, f"resized, {name}", found, expected)


@pytest.mark.parametrize("size", [(12, 9), (40, 20), (30, 70), (74, 106)])
def test_linear_is_opencvs(size, parity):
    cv2 = pytest.importorskip("cv2")
    source = image(37, 53)
    expected = cv2.resize(source, size[::-1], interpolation=cv2.INTER_LINEAR)
    found = resize_image(source, size, "linear").astype(int)
    assert np.abs(found - expected).max() <= 1  # its weights have 11 bits
    parity("images", cv2, "resized, bilinear, 8 bits", found, expected)
    depth = np.random.default_rng(1).random((37, 53)).astype(np.float32)
    expected = cv2.resize(depth, size[::-1], interpolation=cv2.INTER_LINEAR)
    found = resize_linear(depth, size)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    parity("images", cv2, "resized, bilinear, depth", found, expected)


def test_linear_of_a_mask_by_hand():
    mask = np.zeros((2, 4), bool)
    mask[0, 1] = True
    np.testing.assert_array_equal(resize_linear(mask, (1, 2)), [[0.25, 0]])


def test_shorter_side_and_crop_by_hand():
    assert resized_size((900, 400), (224, 224), 256) == (576, 256)
    assert resized_size((700, 1000), (224, 224), 256) == (256, 365)  # 365.7
    assert resized_size((700, 1000), (64, 48), None) == (64, 48)
    index = np.arange(7 * 10).reshape(7, 10)
    np.testing.assert_array_equal(centre_crop(index, (3, 4)), index[2:5, 3:7])
    # Half a pixel goes to the even start: 2.5 to 2, 1.5 to 2.
    assert centre_crop(index, (2, 7))[0, 0] == 22
    assert centre_crop(index, (7, 10)).shape == (7, 10)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (50, 50), (33, 90)])
@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
def test_resize_and_crop_are_torchvisions(shape, name, parity):
    _, torchvision, _ = import_networks()
    transforms = torchvision.transforms
    source = image(*shape)
    size = resized_size(shape, (24, 20), 31)
    ours = centre_crop(resize_image(source, size, name), (24, 20))
    mode = transforms.InterpolationMode(name)
    resize = transforms.Resize(31, interpolation=mode)
    theirs = transforms.CenterCrop((24, 20))(resize(Image.fromarray(source)))
    np.testing.assert_array_equal(ours, np.asarray(theirs))
    parity("images", torchvision, "resized and cropped", ours, np.asarray(theirs))
