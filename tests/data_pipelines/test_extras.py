"""Makers of extras, with every background step that can make them."""

import libraries
import numpy as np
import pytest

from data_pipelines import geometry
from data_pipelines.errors import DatasetError
from data_pipelines.preprocess import prepare
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import complete_parameters
from data_pipelines.unlabelled import collate, read_folder

SIDE, PART = 48, np.s_[12:36, 12:36]


def slope(top: float = 0.02) -> Sample:
    """A part on a table 0.5 m away that rises by `top` metres from left to right."""
    rows, columns = np.indices((SIDE, SIDE))
    z = np.full((SIDE, SIDE), 0.5)
    z[PART] -= (0.01 + np.linspace(0, top, 24))[None]
    xyz = np.stack([(columns - 24) * 1e-3, (rows - 24) * 1e-3, z], -1)
    return Sample(np.full((SIDE, SIDE, 3), 99, np.uint8), xyz.astype(np.float32))


def record(recipe: str, sample: Sample, **changes):
    changes = {"image_size": SIDE, **changes}
    params = RECIPES[recipe].fit(complete_parameters(recipe, changes), iter([sample]))
    return RECIPES[recipe].apply(params, sample).record


PLANE = {"strip": 3, "pad_to": SIDE, "cluster_points": 5}


@pytest.mark.parametrize(
    ("recipe", "changes"), [("ast", {}), ("dsr", {}), ("plane", PLANE)]
)
def test_normalised_depth_is_small_where_near_with_any_background(recipe, changes):
    found = record(recipe, slope(), extras=("depth_normalised",), **changes)
    row = found["depth_normalised"][24, 14:34, 0]
    assert (np.diff(row) < 0).all()  # it rises towards the camera to the right
    part = found["depth_normalised"][PART]
    assert part.min() == np.float32(0.1) and part.max() == np.float32(0.9)


def test_height_is_large_where_near():
    found = record("ast", slope(), extras=("depth_normalised",))
    row = found["height_normalised"][24, 12:36, 0]
    assert (np.diff(row) > 0).all()
    assert found["height_normalised"][0, 0, 0] == pytest.approx(0.2, abs=1e-5)


def test_extras_are_made_only_when_asked_for():
    fields = {"rgb", "mask", "xyz", "depth", "valid", "foreground"}
    assert set(record("raw", slope())) == fields
    assert set(record("dsr", slope())) == fields | {"depth_normalised"}
    more = record("dsr", slope(), extras=("normals",))
    assert set(more) == fields | {"depth_normalised", "normals"}


@pytest.mark.parametrize(
    ("recipe", "can"),
    [
        ("dsr", "fpfh, depth_normalised, normals, views, view_positions, patches"),
        ("raw", "fpfh, depth_normalised, normals, views, view_positions, patches"),
        ("points", "none"),
    ],
)
def test_what_a_recipe_cannot_make_is_an_error_that_lists_what_it_can(recipe, can):
    with pytest.raises(DatasetError, match=f"cannot make height_norm.*make: {can}$"):
        complete_parameters(recipe, {"extras": ("height_normalised",)})


def test_a_makers_parameters_belong_to_those_that_ask_for_it():
    with pytest.raises(DatasetError, match="no parameter passes"):
        complete_parameters("raw", {"passes": 3})
    asked = complete_parameters("raw", {"passes": 3, "extras": ("depth_normalised",)})
    assert asked["passes"] == 3
    with pytest.raises(DatasetError, match="passes: expected a whole number"):
        RECIPES["raw"].fit({**asked, "passes": -1}, iter(()))


def test_images_alone_cannot_give_what_needs_points(box, tmp_path):
    import shutil

    for folder in box.glob("*/*/xyz"):
        shutil.rmtree(folder)
    asked = {"image_size": 16, "extras": ("normals",)}
    with pytest.raises(DatasetError, match="raw and normals needs points"):
        prepare(box.parent, "box", "raw", asked, tmp_path, format="npz")
    assert prepare(box.parent, "box", "ast", {"image_size": 16}, tmp_path, "error")


def test_normals_of_a_plane_and_of_a_sphere_face_the_camera():
    sample = slope(0.0)
    flat = record("raw", sample, extras=("normals",))["normals"]
    np.testing.assert_allclose(
        flat[:5, :5], np.broadcast_to([0, 0, -1], (5, 5, 3)), atol=1e-4
    )
    random = np.random.default_rng(0)
    outwards = random.standard_normal((4000, 3))
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    seen = outwards[outwards[:, 2] < -0.3]
    found = geometry.normals(np.array([0, 0, 0.6]) + 0.05 * seen)
    assert (found * seen).sum(1).min() > 0.97


def test_normals_are_open3ds_up_to_their_sign():
    open3d = libraries.open3d()
    points = np.random.default_rng(1).uniform(0.1, 0.2, (500, 3))
    points[:, 2] += 0.4
    for radius, count in ((0.1, 30), (0.02, 30)):
        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
        search = open3d.geometry.KDTreeSearchParamHybrid(radius, count)
        cloud.estimate_normals(search, fast_normal_computation=False)
        found = geometry.normals(points, radius, count)
        agreement = np.abs((found * np.asarray(cloud.normals)).sum(1))
        np.testing.assert_allclose(agreement, 1, atol=1e-6)
        assert ((found * points).sum(1) <= 0).all()


def test_unmeasured_points_have_no_normal_and_few_points_a_fixed_one():
    sample = slope()
    sample.xyz[:, 20:30] = 0
    found = record("raw", sample, extras=("normals",))["normals"]
    assert not found[:, 20:30].any()
    np.testing.assert_allclose(np.linalg.norm(found[:, :20], axis=-1), 1, atol=1e-6)
    assert geometry.normals(np.zeros((0, 3))).shape == (0, 3)
    np.testing.assert_array_equal(geometry.normals(np.ones((2, 3))), [[0, 0, -1]] * 2)


@pytest.mark.parametrize("recipe", ["ast", "dsr", "plane", "raw"])
def test_a_scan_without_colour_is_preprocessed(recipe, tmp_path):
    import tifffile

    changes = PLANE if recipe == "plane" else {}
    found = record(recipe, slope()._replace(rgb=None), **changes)
    whole = record(recipe, slope(), **changes)
    assert "rgb" not in found
    for name, array in found.items():
        np.testing.assert_array_equal(array, whole[name], name)
    tifffile.imwrite(tmp_path / "a.tiff", slope().xyz, photometric="rgb")
    params = complete_parameters(recipe, {"image_size": SIDE, **changes})
    params = RECIPES[recipe].fit(params, iter([slope()]))
    ((name, one),) = read_folder(tmp_path, recipe, params, ("depth",))
    batch = collate([one], 2)
    assert name == "a" and batch.rgb is None
    np.testing.assert_array_equal(batch.depth[0], whole["depth"])
