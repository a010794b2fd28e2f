"""The script of an export prepares samples with the bits of the library's recipes."""

import itertools

import numpy as np
import PIL
import pytest

from ad3d_jax.experiment.export import recipe as script
from ad3d_jax.experiment.export import resizing
from data_pipelines.camera import Intrinsics, xyz_from_depth
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.resize import resize_image, resize_linear, resize_nearest
from data_pipelines.samples import complete_parameters

SIZES = ((40, 56), (41, 33), (97, 120), (32, 32), (20, 24))  # rows, columns
KERNELS = ("area", "linear", "bilinear", "bicubic", "lanczos")


def frame(seed, size=(60, 80), missing=0.1, bump=0.01):
    """Returns rgb and xyz of a bump on a tilted table, some of it unmeasured."""
    random = np.random.default_rng(seed)
    rgb = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    rows, columns = np.indices(size)
    z = 0.5 + 1e-4 * rows + 2e-5 * columns + random.normal(0, 1e-4, size)
    z[20:40, 25:60] -= bump
    z[random.random(size) < missing] = 0
    z[44:58, 3:17] = 0  # wider than gaps that are filled
    camera = Intrinsics(90.0, 90.0, 40.0, 30.0)
    return rgb, xyz_from_depth(z.astype(np.float32), camera)


def same_fields(name, parameters, samples, learnt_from=None):
    params = complete_parameters(name, parameters)
    params = RECIPES[name].fit(params, learnt_from or samples)
    for sample in samples:
        record = RECIPES[name].apply(params, sample).record
        del record["mask"]
        given = {n: x for n, x in sample._asdict().items() if x is not None}
        found = script.prepared(
            {"recipe": name, "params": params, "pillow": PIL.__version__},
            resizing,
            **given,
        )
        assert found.keys() == record.keys()
        if "rgb" in record:
            record["rgb"] = record["rgb"].astype(np.float32) / np.float32(255)
        for field, expected in record.items():
            assert found[field].dtype == expected.dtype, field
            np.testing.assert_array_equal(found[field], expected, err_msg=field)


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(SIZES, 2)))
def test_images_and_maps_are_resized_alike(before, after):
    random = np.random.default_rng(before[0] + after[0])
    image = random.integers(0, 256, (*before, 3), dtype=np.uint8)
    image[:8] = random.choice([0, 255], (8, before[1], 3))  # clipped by the kernels
    for name in KERNELS:
        expected = resize_image(image, after, name)
        np.testing.assert_array_equal(
            resizing.image(name, PIL.__version__)(image, after), expected
        )
    map = random.random(before, np.float32)
    picked = resizing.nearest(map, after)
    np.testing.assert_array_equal(picked, resize_nearest(map, after))
    np.testing.assert_array_equal(
        resizing.linear(map, after), resize_linear(map, after)
    )


@pytest.mark.parametrize("name", ["raw", "ast", "dsr"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"image_size": 32},
        {"image_size": 32, "interpolation": "bicubic", "resize_size": 41},
        {"image_size": (24, 36), "interpolation": "lanczos"},
        {"image_size": 64, "depth_interpolation": "linear", "resize_size": 64},
    ],
)
def test_recipes_prepare_alike(name, parameters):
    if name == "dsr":
        parameters = {n: x for n, x in parameters.items() if "depth" not in n}
    extras = ["depth_normalised"] + ["height_normalised"] * (name == "ast")
    samples = [Sample(*frame(seed)) for seed in range(3)]
    flat, nothing = frame(4, bump=0.0), frame(5)
    odd = [Sample(*flat), Sample(nothing[0], 0 * nothing[1]), Sample(xyz=flat[1])]
    parameters = {**parameters, "extras": extras}
    same_fields(name, parameters, [*samples, *odd], samples)
    same_fields(name, parameters, [Sample(x.rgb) for x in samples])


@pytest.mark.parametrize(
    "parameters", [{"normalisation": "image"}, {"tau": 0.004, "passes": 0}]
)
def test_parameters_of_ast_count(parameters):
    samples = [Sample(*frame(seed)) for seed in range(2)]
    same_fields("ast", {"image_size": 32, **parameters}, samples)


@pytest.mark.parametrize(
    "parameters", [{"points": 500}, {"points": 9000, "centre": True, "unit": 0.5}]
)
def test_points_are_chosen_alike(parameters):
    _, xyz = frame(1)
    listed = xyz[xyz[..., 2] > 0][:700, None] - np.float32(0.5)
    same_fields("points", parameters, [Sample(xyz=xyz), Sample(xyz=listed)])


def test_what_the_script_prepares_are_recipes_of_the_library():
    assert set(script.RECIPES) < set(RECIPES)
    for name in script.RECIPES[:-1]:
        assert set(script.EXTRAS) & set(RECIPES[name].extras)


MANIFEST = {"fitted": {"sizes": [[60, 80]], "distances": [0.4, 0.6]}}


def test_depth_and_intrinsics_become_the_librarys_points():
    _, xyz = frame(2)
    depth = np.where(xyz[..., 2] > 0, xyz[..., 2], np.nan)
    given = {"depth": depth, "intrinsics": np.array([90.0, 80.0, 40.0, 29.5])}
    found = script.measurement(MANIFEST, given)
    camera = Intrinsics(90.0, 80.0, 40.0, 29.5)
    expected = xyz_from_depth(np.nan_to_num(depth), camera)
    np.testing.assert_array_equal(found["xyz"], expected)


def test_what_was_not_measured_becomes_zero():
    _, xyz = frame(2)
    odd = xyz.astype(np.float64)
    odd[0, 0], odd[0, 1], odd[0, 2] = np.nan, (1, 2, np.inf), (0.1, 0.2, 0)
    found = script.measurement(MANIFEST, {"xyz": odd})["xyz"]
    assert found.dtype == np.float32 and not found[0, :3].any()
    np.testing.assert_array_equal(found[1:], xyz[1:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda xyz: 1000 * xyz, "expected metres below 10"),
        (lambda xyz: -xyz, "z from 0.001 on"),
        (lambda xyz: xyz / 1000, "z from 0.001 on"),
        (lambda xyz: xyz[:, :60], "proportions of what was fitted"),
    ],
)
def test_what_cannot_be_right_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        script.measurement(MANIFEST, {"xyz": change(frame(2)[1])})
    with pytest.raises(ValueError, match="one size"):
        script.measurement(MANIFEST, {"xyz": frame(2)[1], "rgb": np.zeros((30, 40, 3))})


def test_another_distance_is_warned_of():
    with pytest.warns(UserWarning, match="another unit"):
        script.measurement(MANIFEST, {"xyz": 3 * frame(2)[1]})


def test_the_order_of_passes_is_that_of_the_version_of_pillow():
    tall = (640, 480), (100, 400)
    assert resizing.order(*tall, 12) == (1, 0) and resizing.order(*tall, 13) == (0, 1)
    assert resizing.order((480, 640), (224, 224), 13) == (1, 0)
