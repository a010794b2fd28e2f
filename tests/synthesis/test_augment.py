import colorsys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from ad3d_jax.synthesis import augment as augmentations

GOLDEN = Path(__file__).parent.parent / "golden" / "augmentations.npz"
PILLOW = "anomaly synthesis", PIL
IMGAUG = "anomaly synthesis", "imgaug 0.4.0"


def picture(kind="smooth", height=60, width=50):
    """Returns [height,width,3] uint8: smooth, noisy or of one level."""
    generator = np.random.default_rng(0)
    if kind == "noise":
        return generator.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "constant":
        return np.full((height, width, 3), 77, np.uint8)
    y, x = np.mgrid[:height, :width]
    waves = [110 + 60 * np.sin(y / 5 + c) + 30 * np.cos(x / (3 + c)) for c in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


def scaled(levels):
    return jnp.asarray(levels, jnp.float32) / 255.0


def levels(image):
    return np.asarray(np.round(np.asarray(image) * 255), np.int32)


KINDS = pytest.mark.parametrize("kind", ["smooth", "noise", "constant"])


@KINDS
def test_equalise_is_that_of_pillow(kind, parity):
    expected = ImageOps.equalize(Image.fromarray(picture(kind)))
    result = augmentations.equalise(scaled(picture(kind)))
    np.testing.assert_array_equal(levels(result), np.asarray(expected))
    parity(*PILLOW, "equalise", levels(result), np.asarray(expected))


@KINDS
@pytest.mark.parametrize("cutoff", [0, 7, 20])
def test_auto_contrast_is_that_of_pillow(kind, cutoff, parity):
    expected = ImageOps.autocontrast(Image.fromarray(picture(kind)), cutoff)
    result = levels(augmentations.auto_contrast(scaled(picture(kind)), cutoff))
    difference = np.abs(result - np.asarray(expected, np.int32))
    # Pillow truncates a product of floats, which may fall just below a whole number.
    assert difference.max() <= 1 and (difference > 0).mean() < 0.05
    parity(*PILLOW, "auto-contrast", result, np.asarray(expected))


@KINDS
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_posterise_is_that_of_pillow(kind, bits, parity):
    expected = ImageOps.posterize(Image.fromarray(picture(kind)), bits)
    result = augmentations.posterise(scaled(picture(kind)), bits)
    np.testing.assert_array_equal(levels(result), np.asarray(expected))
    parity(*PILLOW, "posterise", levels(result), np.asarray(expected))


@KINDS
@pytest.mark.parametrize("threshold", [32, 77, 128, 256])
def test_solarise_and_invert_are_those_of_pillow(kind, threshold, parity):
    image = Image.fromarray(picture(kind))
    result = augmentations.solarise(scaled(picture(kind)), threshold)
    expected = np.asarray(ImageOps.solarize(image, threshold))
    np.testing.assert_array_equal(levels(result), expected)
    parity(*PILLOW, "solarise", levels(result), expected)
    inverted = levels(augmentations.invert(scaled(picture(kind))))
    np.testing.assert_array_equal(inverted, np.asarray(ImageOps.invert(image)))
    parity(*PILLOW, "invert", inverted, np.asarray(ImageOps.invert(image)))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 2.5])
def test_sharpness_is_that_of_pillow(factor, parity):
    expected = ImageEnhance.Sharpness(Image.fromarray(picture())).enhance(factor)
    result = levels(augmentations.sharpen(scaled(picture()), factor))
    # Pillow rounds the smoothed image to 8 bits before it extrapolates.
    assert np.abs(result - np.asarray(expected, np.int32)).max() <= 2
    parity(*PILLOW, "sharpness", result, np.asarray(expected))


@pytest.mark.parametrize(("hue", "saturation"), [(0, 0), (0.15, -0.1), (-0.3, 0.2)])
def test_hue_and_saturation_are_those_of_colorsys(hue, saturation):
    image = picture("noise")
    image[0, :4] = [[0, 0, 0], [255, 255, 255], [90, 90, 90], [200, 200, 10]]
    result = augmentations.shift_hue_saturation(scaled(image), hue, saturation)
    for place in np.ndindex(4, 24):
        h, s, v = colorsys.rgb_to_hsv(*(image[place] / 255.0))
        s = np.clip(s + saturation, 0, 1)
        expected = colorsys.hsv_to_rgb((h + hue) % 1, s, v)
        np.testing.assert_allclose(result[place], expected, atol=1e-5)


def test_gamma_by_hand():
    image = jnp.full((1, 1, 3), 0.25)
    gamma = augmentations.adjust_gamma(image, jnp.array([0.5, 1.0, 2.0]))
    np.testing.assert_allclose(gamma[0, 0], [0.5, 0.25, 0.0625], rtol=1e-6)


# Levels that a pixel may differ by: OpenCV rounds to 8 bits in every space.
LIMITS = {"YCrCb": 2, "HSV": 4, "HLS": 4, "Lab": 9, "Luv": None, "YUV": 2}


@pytest.mark.parametrize(("space", "name"), enumerate(LIMITS))
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_brightness_is_that_of_imgaug(kind, space, name, parity):
    """In Luv dark colours suffer from the rounding: a tenth of them is left out."""
    golden = np.load(GOLDEN)
    adjust = jax.jit(augmentations.adjust_brightness)
    for way, (factor, shift) in {"up": (1.15, 21), "down": (0.83, -24)}.items():
        for order in ("scale", "shift"):
            expected = golden[f"{kind}_{name}_{way}_{order}"].astype(np.int32)
            image = scaled(picture(kind, 12, 10))
            result = adjust(image, space, factor, shift / 255, order == "shift")
            difference = np.abs(levels(result) - expected)
            assert np.median(difference) <= 1
            if LIMITS[name] is None:
                counted = difference <= np.quantile(difference, 0.9)
                assert difference[counted].max() <= 3
                both = levels(result)[counted], expected[counted]
                parity(*IMGAUG, f"brightness in {name}, 90 % of the numbers", *both)
            else:
                assert difference.max() <= LIMITS[name]
                parity(*IMGAUG, f"brightness in {name}", levels(result), expected)


@pytest.mark.parametrize(
    ("draws", "kind", "operation"),
    [
        ("draws_brightness", "smooth", augmentations._random_brightness),
        ("draws_sharpness", "noise", augmentations._random_sharpness),
    ],
)
def test_draws_have_the_distribution_of_imgaug(draws, kind, operation, parity):
    """Mean change, mean absolute change of chroma and of all, of a thousand draws.

    The first one of sharpness, and chroma where the others stay, are a matter of
    rounding to 8 bits there: they are compared to half a level.
    """
    expected = np.load(GOLDEN)[draws]
    image = scaled(picture(kind, 12, 10))
    keys = jax.random.split(jax.random.key(3), 1000)
    change = 255 * (jax.jit(jax.vmap(operation, (0, None)))(keys, image) - image[None])
    grey = jnp.mean(change, -1, keepdims=True)
    axes = (1, 2, 3)
    told = [change, jnp.abs(change - grey), jnp.abs(change)]
    told = np.stack([np.mean(values, axes) for values in told], -1)
    rounding = 1 if draws == "draws_brightness" else 0
    for number in {0, 1, 2} - {rounding}:
        result = stats.ks_2samp(told[:, number], expected[:, number])
        assert result.pvalue > 1e-3, (number, result)
    shares = [0.05, 0.25, 0.5, 0.75, 0.95]
    quantiles = [np.quantile(x[:, rounding], shares) for x in (told, expected)]
    np.testing.assert_allclose(*quantiles, atol=0.5)
    what = f"{draws.removeprefix('draws_')}, quantiles of a thousand draws"
    parity(*IMGAUG, what, *(np.quantile(x[:, 2], shares) for x in (told, expected)))


def test_histogram_is_that_of_numpy():
    image = picture("noise").astype(np.int32)
    counts = augmentations.histogram(jnp.asarray(image))
    for channel in range(3):
        expected = np.bincount(image[..., channel].ravel(), minlength=256)
        np.testing.assert_array_equal(counts[channel], expected)


@pytest.mark.parametrize("operation", augmentations.OPERATIONS)
def test_each_operation_keeps_shape_and_range(operation):
    keys = jax.random.split(jax.random.key(0), 8)
    results = jax.vmap(operation, (0, None))(keys, scaled(picture("noise")))
    assert results.shape == (8, 60, 50, 3) and results.dtype == jnp.float32
    assert float(results.min()) >= -1e-6 and float(results.max()) <= 1 + 1e-6
    assert float(jnp.abs(results - scaled(picture("noise"))[None]).max()) > 0.02


def test_operations_are_distinct_and_in_random_order(monkeypatch):
    """Ten marks in place of the operations write down which ran, and in what order."""
    marks = tuple(lambda key, x, n=n: 11.0 * x + (n + 1) for n in range(10))
    monkeypatch.setattr(augmentations, "OPERATIONS", marks)
    keys = jax.random.split(jax.random.key(1), 600)
    zero = jnp.zeros((1, 1, 3))
    written = jax.vmap(augmentations.augment, (0, None))(keys, zero)[:, 0, 0, 0]
    written = np.asarray(written, np.int64)
    order = np.stack([written // 121, written // 11 % 11, written % 11], 1) - 1
    assert order.min() == 0 and order.max() == 9
    assert all(len(set(row)) == 3 for row in order)
    for place in range(3):
        share = np.bincount(order[:, place], minlength=10) / 600
        assert np.all(np.abs(share - 0.1) < 0.05)


def test_rows_do_not_depend_on_their_batch():
    keys = jax.random.split(jax.random.key(2), 4)
    images = jnp.stack(
        [scaled(picture(k)) for k in ("smooth", "noise", "smooth", "noise")]
    )
    wanted = jnp.array([True, False, True, True])
    together = jax.jit(augmentations.augment_rows)(keys, images, wanted)
    np.testing.assert_array_equal(together[1], images[1])
    for row in (0, 2, 3):
        alone = augmentations.augment(keys[row], images[row])
        np.testing.assert_allclose(together[row], alone, atol=1e-6)
        assert float(jnp.abs(together[row] - images[row]).max()) > 0.01


def test_whole_parts_are_those_of_whole_numbers():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-65025, 2**20, 100_000), rng.integers(1, 4200, 100_000)
    a[:50_000] -= a[:50_000] % b[:50_000]  # what divides without a rest
    found = jax.jit(augmentations._whole_part)(a.astype(np.int32), b.astype(np.int32))
    np.testing.assert_array_equal(found, a // b)
