"""Maps and boxes at the size of the picture: the recipe's resizing is undone."""

import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.ops.resize import resize_bilinear
from data_pipelines.recipes.base import Sample
from data_pipelines.recipes.resizing import box_in_picture, resized, to_picture

PARAMS = {"image_size": 20, "mask_size": None, "interpolation": "area"}
WHOLE = {**PARAMS, "resize_size": None}
CROPPED = {**PARAMS, "resize_size": 30}


@pytest.mark.parametrize("size", [(60, 90), (20, 20), (13, 70)])
def test_without_a_crop_it_is_the_bilinear_interpolation_of_jax(size):
    values = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    found = to_picture(WHOLE, values, size)
    expected = resize_bilinear(jnp.asarray(values)[None, ..., None], size)
    assert found.dtype == np.float32 and found.shape == size
    np.testing.assert_allclose(found, expected[0, ..., 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("params", "size"), [(WHOLE, (60, 90)), (CROPPED, (60, 90))])
def test_a_place_is_found_where_it_was(params, size):
    """A map that holds the place in the picture of each of its pixels gives it back."""
    scale = np.array(size) / ((20, 20) if params is WHOLE else (30, 45))
    begins = (0, 0) if params is WHOLE else (5, 12)  # (45 - 20) / 2, to the even one
    axes = [
        (np.arange(20) + first + 0.5) * s - 0.5
        for first, s in zip(begins, scale, strict=True)
    ]
    for axis, places in enumerate(np.meshgrid(*axes, indexing="ij")):
        found = to_picture(params, places.astype(np.float32), size)
        expected = np.indices(size)[axis].astype(np.float32)
        seen = np.isfinite(found)
        inside = (expected >= places.min()) & (expected <= places.max()) & seen
        np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)
    if params is CROPPED:  # twice the crop: rows 10 to 50, columns 24 to 64
        assert seen[10:50, 24:64].all() and seen.sum() == 40 * 40
    else:
        assert seen.all()


@pytest.mark.parametrize("params", [WHOLE, CROPPED])
def test_a_box_holds_what_it_was_drawn_around(params):
    rgb = np.zeros((61, 97, 3), np.uint8)
    rgb[25:33, 40:51] = 255
    small = resized(params, Sample(rgb=rgb)).rgb[..., 0]
    rows, columns = np.nonzero(small > 0)
    box = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    top, left, bottom, right = box_in_picture(params, box, (20, 20), (61, 97))
    # No pixel is left out, and a side is off by two pixels of the map at most.
    grain = (61 / 20, 97 / 20) if params is WHOLE else (61 / 30, 61 / 30)
    assert 0 <= 25 - top <= 2 * grain[0] and 0 <= bottom - 33 <= 2 * grain[0]
    assert 0 <= 40 - left <= 2 * grain[1] and 0 <= right - 51 <= 2 * grain[1]


def test_the_box_of_the_whole_map_is_the_picture_or_the_crop():
    whole = 0, 0, 20, 20
    assert box_in_picture(WHOLE, whole, (20, 20), (61, 97)) == (0, 0, 61, 97)
    # 60 x 90 at half the size is 30 x 45, cropped to rows 5 to 25, columns 12 to 32.
    assert box_in_picture(CROPPED, whole, (20, 20), (60, 90)) == (10, 24, 50, 64)
