"""Rendered views: by hand, and against what Open3D's window shows."""

from pathlib import Path

import numpy as np
import pytest
from domes import dome

from data_pipelines.errors import DatasetError
from data_pipelines.preprocess import prepare
from data_pipelines.recipes import RECIPES, Sample, views
from data_pipelines.resident import load_resident
from data_pipelines.samples import complete_parameters
from data_pipelines.stream import open_stream

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "open3d_views.npz"
OPEN3D = "CPMF", "open3d 0.20.0"
EXTRAS = ("views", "view_positions")
WINDOW = 48
PARAMS = {**views.DEFAULTS, "view_size": WINDOW}


def slope(rows: int = 20, columns: int = 30) -> Sample:
    """A surface without gaps in front of a camera, higher at one end."""
    row, column = np.indices((rows, columns))
    z = 0.5 + 2e-4 * column + 1e-4 * row
    xyz = np.stack([(column - 14.5) * 2e-3, (row - 9.5) * 2e-3, z], -1)
    rgb = np.stack([row, column, row], -1).astype(np.uint8) * 8
    return Sample(rgb, xyz.astype(np.float32))


def record(sample: Sample, **changes):
    given = {"image_size": 20, "view_size": WINDOW, "extras": EXTRAS, **changes}
    params = RECIPES["raw"].fit(complete_parameters("raw", given), iter(()))
    return RECIPES["raw"].apply(params, sample).record


# --- By hand --------------------------------------------------------------------------


def test_order_of_the_views():
    # Sheet §10, fact 1, and fact 8.
    angles = {
        **{0: (0, 0, 0), 1: (0, 0, -15), 2: (0, 0, 15), 3: (0, -15, 0)},
        **{9: (-15, 0, 0), 18: (15, 0, 0), 26: (15, 15, 15)},
    }
    found = views.rotations()
    assert found.shape == (27, 3, 3)
    for view, (x, y, z) in angles.items():
        turns = [
            about(axis, angle) for axis, angle in zip("xyz", (x, y, z), strict=True)
        ]
        expected = turns[0] @ turns[1] @ turns[2]
        np.testing.assert_allclose(found[view], expected, atol=1e-12)
    by_hand = [[1, 0, 0], [0, 0.9659, -0.2588], [0, 0.2588, 0.9659]]
    np.testing.assert_allclose(found[18], by_hand, atol=5e-5)


def about(axis: str, degrees: float) -> np.ndarray:
    """Returns the right-handed rotation about one axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    first, second = [k for k in range(3) if k != "xyz".index(axis)]
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = c
    turn[first, second], turn[second, first] = (s, -s) if axis == "y" else (-s, s)
    return turn


def test_a_plane_seen_from_in_front():
    """A square of side 1 fills 5/7 of the picture, since 1.4 of its sides are seen."""
    side = np.linspace(-0.5, 0.5, 11)
    points = np.stack([*np.meshgrid(side, side), np.full((11, 11), -3.0)], -1)
    (camera,) = views.cameras({**PARAMS, "views": 1}, points.reshape(-1, 3))
    pixels, depth = camera.project(points.reshape(-1, 3))
    # 24 half the window; the outermost points lie at 0.5 / 0.7 of that.
    expected = 23.5 + 24 * side / 0.7
    np.testing.assert_allclose(pixels.reshape(11, 11, 2)[0, :, 0], expected, atol=1e-9)
    # Rows count downwards.
    np.testing.assert_allclose(
        pixels.reshape(11, 11, 2)[:, 0, 1], expected[::-1], atol=1e-9
    )
    np.testing.assert_allclose(depth, 0.7 * np.sqrt(3), atol=1e-9)


def test_light_by_hand():
    """A plane in the middle of the box, half grey: cosines and the mirror of lights."""
    side = np.linspace(-0.5, 0.5, 11)
    points = np.stack([*np.meshgrid(side, side), np.full((11, 11), -3.0)], -1)
    points = points.reshape(-1, 3)
    (camera,) = views.cameras({**PARAMS, "views": 1}, points)

    def picture(*normal):
        normals, grey = np.tile(normal, (121, 1)), np.full((121, 1), 0.5)
        return views.render(camera, views.Cloud(points, normals, grey))[..., 0]

    # 60 degrees away from the lights in front, and no mirror.
    tilted = picture(0, np.sqrt(0.75), 0.5)
    assert tilted[24, 24] == np.rint(255 * 0.5 * 2 * 0.66 * 0.5)
    # Squares of 5 pixels around columns floor(24 - 17.14) to floor(24 + 17.14).
    assert (tilted < 255).sum() == 40 * 40 and (tilted[4:44, 4:44] < 255).all()
    # Towards them 0.5 * 2 * 0.66 + 2 * 0.2 is more than white. Beside, it fades.
    facing = picture(0, 0, 1)
    assert facing[24, 24] == 255 and facing[24, 4] < 255
    # The lights behind shine on the other side as much.
    np.testing.assert_array_equal(picture(0, 0, -1), facing)


def test_the_nearer_point_is_shown_and_of_equals_the_first():
    box = views.Camera(np.full(3, -1.0), np.ones(3), 21)
    points = np.array([[0, 0, 0], [0, 0, 0.5], [0.02, 0, 0.5], [0, 0, -0.5], [9, 9, 0]])
    shown = views.nearest_points(box, points, 3)
    assert (shown[9:12, 9:12] == 1).all() and (shown != 5).sum() == 9
    again = views.nearest_points(box, points[[3, 2, 1, 0]], 5)
    assert (again[8:13, 8:13] == 1).all() and (again != 4).sum() == 25


def test_positions_grow_along_rows_and_columns():
    # Sheet §10, fact 7.
    found = record(slope(20, 20), views=1)["view_positions"][0]
    assert (np.diff(found[..., 0], axis=1) >= 0).all()
    assert (np.diff(found[..., 1], axis=0) >= 0).all()
    assert found.min() >= 0 and found.max() < WINDOW
    assert np.ptp(found[..., 0]) > 25  # pixels; the longer side


def test_where_a_cloud_lies_does_not_matter():
    points, normals, _ = dome()
    moved = points + [0.3, -0.2, 1.0]
    for turn, one, other in zip(
        views.rotations(),
        views.cameras(PARAMS, points),
        views.cameras(PARAMS, moved),
        strict=True,
    ):
        expected = one.project(views.turned(points, turn))
        found = other.project(views.turned(moved, turn))
        np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-9)


def test_a_camera_takes_in_what_was_shown_before_or_one_view_alone():
    points, _, _ = dome()
    grown = list(views.cameras(PARAMS, points))
    alone = list(views.cameras({**PARAMS, "view_camera": "view"}, points))
    sides = np.array([camera.extents for camera in grown])
    assert (np.diff(sides, axis=0) >= 0).all() and (sides[-1] > sides[0]).all()
    for turn, camera in zip(views.rotations(), alone, strict=True):
        shown = views.turned(points, turn)
        np.testing.assert_array_equal(camera.low, shown.min(0))
        np.testing.assert_array_equal(camera.high, shown.max(0))
    np.testing.assert_array_equal(grown[-1].high, np.max([c.high for c in alone], 0))


# --- Against Open3D's window ----------------------------------------------------------


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def test_cameras_are_those_of_the_window(golden, parity):
    points, _, _ = dome()
    reference = points[::3]
    for view, (turn, camera) in enumerate(
        zip(views.rotations(), views.cameras(PARAMS, points), strict=True)
    ):
        shown = views.turned(reference, turn)
        matrix = golden["extrinsic"][view]
        seen = (shown @ matrix[:3, :3].T + matrix[:3, 3]) @ golden["intrinsic"].T
        pixels, depth = camera.project(shown)
        np.testing.assert_allclose(pixels, seen[:, :2] / seen[:, 2:], atol=1e-9)
        parity(*OPEN3D, "views, places of points", pixels, seen[:, :2] / seen[:, 2:])
        np.testing.assert_allclose(depth, seen[:, 2], atol=1e-12)
        np.testing.assert_array_equal(pixels.astype(int).T, golden["positions"][view])


@pytest.mark.parametrize("colour", sorted(views.COLOURS))
def test_pictures_are_those_of_the_window(golden, colour, parity):
    """All but a few pixels at edges; Open3D's light is computed in float32."""
    points, normals, colours = dome()
    given = {"grey": np.full((len(points), 1), views.GREY), "rgb": colours}
    cloud = views.Cloud(points, normals, given.get(colour))
    shots = zip(views.cameras(PARAMS, points), views.rotations(), strict=True)
    found = [views.render(see, cloud.turned(turn), colour) for see, turn in shots]
    if colour == "grey":
        found, expected = np.stack(found)[..., 0], golden["grey"]
    else:
        found, expected = found[26], golden[colour]
    difference = np.abs(found.astype(int) - expected)
    assert (expected < 255).mean() > 0.1
    assert (difference <= 1).mean() > 0.995
    inside = difference <= 1
    parity(*OPEN3D, "views, 99.5 % of the pixels", found[inside], expected[inside])


# --- As extras ------------------------------------------------------------------------


def test_views_are_of_the_sensors_points_and_places_of_the_resized_ones():
    sample = slope()
    whole = record(sample, image_size=(20, 30), views=4)
    small = record(sample, image_size=(10, 15), views=4)
    np.testing.assert_array_equal(small["views"], whole["views"])
    assert whole["views"].shape == (4, WINDOW, WINDOW, 1)
    assert small["view_positions"].shape == (4, 10, 15, 2)
    assert small["views"].dtype == np.uint8
    assert small["view_positions"].dtype == np.int16
    more = record(sample, image_size=(10, 15), views=6)
    for name in EXTRAS:
        np.testing.assert_array_equal(more[name][:4], small[name])


def test_pixels_without_points_have_no_place():
    sample = slope()
    sample.xyz[:, 20:] = 0
    found = record(sample, image_size=(20, 30), views=2)
    assert (found["view_positions"][:, :, 20:] == views.UNSEEN).all()
    assert (found["view_positions"][:, :, :20] >= 0).all()
    nothing = Sample(sample.rgb, np.zeros_like(sample.xyz))
    found = record(nothing, image_size=(20, 30), views=2)
    assert (found["view_positions"] == views.UNSEEN).all()
    assert (found["views"] == 255).all()
    nothing.xyz[3, 4] = (0.01, 0.02, 0.5)
    found = record(nothing, image_size=(20, 30), views=2)
    np.testing.assert_array_equal(found["view_positions"][1, 3, 4], [23, 23])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("views", 28, "views: expected a whole number of 1 to 27, found 28"),
        ("view_size", 0, "view_size: expected a whole number of 1 or more"),
        ("point_size", 4, "point_size: expected an odd number, found 4"),
        ("view_colour", "fpfh", "view_colour: expected grey or rgb or"),
        ("view_camera", "fixed", "view_camera: expected grown or view"),
    ],
)
def test_wrong_parameters_are_refused(name, value, message):
    given = complete_parameters("raw", {"extras": EXTRAS, name: value})
    with pytest.raises(DatasetError, match=message):
        RECIPES["raw"].fit(given, iter(()))


def test_colours_need_images():
    with pytest.raises(DatasetError, match="view_colour=rgb needs images"):
        record(slope()._replace(rgb=None), view_colour="rgb")


def test_shards_keep_the_views(box, tmp_path):
    asked = {"image_size": 16, "view_size": 20, "views": 2, "extras": EXTRAS}
    found = []
    for form, load in (("npz", load_resident), ("tfds", open_stream)):
        folder = tmp_path / form
        prepared = prepare(box.parent, "box", "raw", asked, folder, format=form)
        (batch,) = load(prepared).ordered("validation", 2, 0)
        assert batch.extras["views"].shape == (2, 2, 20, 20, 1)
        assert batch.extras["views"].dtype == np.uint8
        assert batch.extras["view_positions"].dtype == np.int16
        found.append(batch.extras)
    for name in EXTRAS:
        np.testing.assert_array_equal(found[0][name], found[1][name])
