"""Rendered views of a cloud: turned, seen by a camera, each point a lit square.

The pictures of CPMF (Cao, Xu, Shen, "Complementary Pseudo Multimodal Feature for Point
Cloud Anomaly Detection", Pattern Recognition 156, 2024, arXiv 2303.13194). The authors'
release takes them with the window of Open3D's `Visualizer`, which needs a display. Here
its geometry, its depth test and its light are computed with NumPy.

Axes are those of the window: x to the right, y up, z towards the viewer.
"""

from collections.abc import Iterator
from itertools import accumulate, product
from typing import NamedTuple

import numpy as np
from scipy.ndimage import minimum_filter
from scipy.spatial.transform import Rotation

from data_pipelines import geometry
from data_pipelines.errors import DatasetError
from data_pipelines.measured import measured
from data_pipelines.recipes.base import (
    Parameters,
    Sample,
    Scene,
    check_choice,
    check_whole,
)

ANGLES = (0.0, -15.0, 15.0)  # degrees, about each axis
MOST_VIEWS = len(ANGLES) ** 3
FROM_SENSOR = np.array([1.0, -1.0, -1.0])  # whose y points down and z away
UNSEEN = -1  # position of a pixel without a point

# Of Open3D's window.
HALF_VIEW = np.tan(np.deg2rad(60.0) / 2)  # tangent of half the field of view
ZOOM = 0.7  # half the height of what is seen, in extents of the box
LIGHTS = 2, -2  # where they are on the z-axis, in extents from the middle of the box
DIFFUSE, SPECULAR, SHININESS = 2 * 0.66, 2 * 0.2, 100  # two lights at each place
WHITE, GREY = 255, 0.5
SMALLEST = 1e-6  # metres; the least extent of a box

COLOURS = {"grey": 1, "rgb": 3, "x": 3, "y": 3, "z": 3, "normal": 3}  # channels
CAMERAS = "grown", "view"
DEFAULTS = {
    "views": MOST_VIEWS,  # the first so many
    "view_size": 224,  # pixels of a side
    "point_size": 5,  # pixels of a side of a point's square; odd
    "view_colour": "grey",
    # What the camera takes in: this view and those before it, or this view alone.
    "view_camera": "grown",
}


def check(parameters: Parameters) -> None:
    """Raises DatasetError where a parameter is out of its range."""
    check_whole("views", parameters, 1, MOST_VIEWS)
    check_whole("view_size", parameters, 1)
    check_whole("point_size", parameters, 1)
    if parameters["point_size"] % 2 == 0:
        raise DatasetError(
            f"recipe: point_size: expected an odd number, found "
            f"{parameters['point_size']}"
        )
    check_choice("view_colour", parameters, tuple(COLOURS))
    check_choice("view_camera", parameters, CAMERAS)


class Cloud(NamedTuple):
    """Points in the window's axes, and what lights and colours them."""

    points: np.ndarray  # [N,3] float64 metres
    normals: np.ndarray  # [N,3] unit
    colours: np.ndarray | None = None  # [N,C] in [0,1]; None = follow from the points

    def turned(self, turn: np.ndarray) -> "Cloud":
        """Returns the cloud after a rotation about its centroid."""
        points, normals = turned(self.points, turn), self.normals @ turn.T
        return Cloud(points, normals, self.colours)


class Camera(NamedTuple):
    """A camera in front of the middle of a box, which looks along -z."""

    low: np.ndarray  # [3] metres, corners of the box
    high: np.ndarray
    size: int  # pixels of a side of its picture

    @property
    def middle(self) -> np.ndarray:
        """Returns the middle of the box [3]."""
        return (self.low + self.high) / 2

    @property
    def extents(self) -> np.ndarray:
        """Returns the sides of the box [3], metres."""
        return np.maximum(self.high - self.low, SMALLEST)

    def ahead(self, extents: float) -> np.ndarray:
        """Returns the place [3] so many longest sides in front of the middle."""
        return self.middle + [0, 0, extents * self.extents.max()]

    @property
    def eye(self) -> np.ndarray:
        """Returns where the camera stands [3]."""
        return self.ahead(ZOOM / HALF_VIEW)

    def joined(self, other: "Camera") -> "Camera":
        """Returns the camera of both boxes."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return Camera(low, high, self.size)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns columns and rows [N,2], whole in the middle of pixels, and depths."""
        x, y, z = (points - self.eye).T
        focal = self.size / 2 / HALF_VIEW
        centre = self.size / 2 - 0.5
        pixels = np.stack([centre - focal * x / z, centre + focal * y / z], axis=-1)
        return pixels, -z


# --- The extras -----------------------------------------------------------------------


def views(params: Parameters, scene: Scene) -> np.ndarray:
    """Returns pictures of the sensor's points, [V,S,S,C] uint8, white where is nothing.

    All measured points at the sensor's resolution, in the order of `rotations`. C is 1
    for grey, else 3.
    """
    cloud = _cloud(params, _sensed(scene))
    if not len(cloud.points):
        return np.full(shape_of_views(params), WHITE, np.uint8)
    style = params["view_colour"], params["point_size"]
    turns, seen = rotations(params["views"]), cameras(params, cloud.points)
    shots = zip(seen, turns, strict=True)
    return np.stack([render(see, cloud.turned(turn), *style) for see, turn in shots])


def view_positions(params: Parameters, scene: Scene) -> np.ndarray:
    """Returns where each pixel's point lies in each view, [V,H,W,2] int16.

    (column, row), cut off to whole numbers and kept inside the view; -1 where nothing
    was measured. As in the release the points are those of the resized sample, turned
    about their own centroid, and whether something hides a point is not asked.
    """
    xyz = scene.sample.xyz
    there = measured(xyz)
    found = np.full((params["views"], *there.shape, 2), UNSEEN, np.int16)
    if not there.any():
        return found
    points = _points(scene.sample)
    turns, seen = rotations(params["views"]), cameras(params, _points(_sensed(scene)))
    for place, turn, camera in zip(found, turns, seen, strict=True):
        pixels, _ = camera.project(turned(points, turn))
        place[there] = np.clip(pixels, 0, params["view_size"] - 1)
    return found


def shape_of_views(params: Parameters) -> tuple[int, ...]:
    """Returns the shape of `views`."""
    size = params["view_size"]
    return params["views"], size, size, COLOURS[params["view_colour"]]


# --- Where from -----------------------------------------------------------------------


def rotations(count: int = MOST_VIEWS) -> np.ndarray:
    """Returns the rotations of the first views, [count,3,3]: Rx Ry Rz.

    Angles about x change last, those about z first; the first view is not turned.
    """
    angles = list(product(ANGLES, repeat=3))[:count]
    return Rotation.from_euler("XYZ", angles, degrees=True).as_matrix()


def turned(points: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Returns points [N,3] turned about their centroid."""
    centroid = points.mean(0)
    return (points - centroid) @ turn.T + centroid


def cameras(params: Parameters, points: np.ndarray) -> Iterator[Camera]:
    """Returns the camera of each view of points [N,3].

    A window's box is never made smaller: it holds all that was shown. The release shows
    all samples in one window, so that a view depends on the samples before; here each
    sample has a window of its own, as the release's first one.
    """

    def fitted(turn: np.ndarray) -> Camera:
        shown = turned(points, turn)
        return Camera(shown.min(0), shown.max(0), params["view_size"])

    each = map(fitted, rotations(params["views"]))
    return each if params["view_camera"] == "view" else accumulate(each, Camera.joined)


# --- What is seen ---------------------------------------------------------------------


def render(
    camera: Camera, cloud: Cloud, colour: str = "grey", point_size: int = 5
) -> np.ndarray:
    """Returns the picture [S,S,C] uint8 of a cloud.

    Args:
        camera: takes it.
        cloud: its points, of which there is at least one.
        colour: one of COLOURS.
        point_size: pixels of a side of a point's square.
    """
    nearest = nearest_points(camera, cloud.points, point_size)
    drawn = nearest < len(cloud.points)
    shown = Cloud(*(None if x is None else x[nearest[drawn]] for x in cloud))
    if colour == "normal":
        values = shown.normals / 2 + 0.5  # as they are, without light
    elif shown.colours is None:
        share = (shown.points - camera.low) / camera.extents
        values = lit(camera, shown, jet(share[:, "xyz".index(colour)]))
    else:
        values = lit(camera, shown, shown.colours)
    picture = np.full((camera.size, camera.size, COLOURS[colour]), WHITE, np.uint8)
    picture[drawn] = np.rint(255 * np.clip(values, 0, 1))
    return picture


def nearest_points(camera: Camera, points: np.ndarray, side: int) -> np.ndarray:
    """Returns which point each pixel shows, [S,S] int; the number of points where none.

    A point covers a square of `side` pixels around the one that it lies in. The nearest
    to the camera is shown, the first of equals; points outside the picture are not.
    """
    pixels, depth = camera.project(points)
    places = np.floor(pixels + 0.5).astype(int)
    inside = ((places >= 0) & (places < camera.size)).all(1)
    order = np.argsort(depth, kind="stable")
    order = order[inside[order]]
    ranks = np.full((camera.size, camera.size), len(order))
    np.minimum.at(ranks, tuple(places[order].T[::-1]), np.arange(len(order)))
    ranks = minimum_filter(ranks, side, mode="nearest")
    return np.append(order, len(points))[ranks]


def lit(camera: Camera, cloud: Cloud, colours: np.ndarray) -> np.ndarray:
    """Returns colours [N,C] under Open3D's lights, before and behind the box.

    Phong's model: a surface reflects light evenly by the cosine of its angle, and
    besides like a mirror.
    """
    to_eye = unit(camera.eye - cloud.points)
    diffuse = specular = 0.0
    for place in LIGHTS:
        to_light = unit(camera.ahead(place) - cloud.points)
        cosine = (cloud.normals * to_light).sum(1, keepdims=True)
        mirrored = 2 * cosine * cloud.normals - to_light
        shine = np.clip((mirrored * to_eye).sum(1, keepdims=True), 0, 1)
        diffuse += np.clip(cosine, 0, 1)
        specular += shine**SHININESS
    return DIFFUSE * diffuse * colours + SPECULAR * specular


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors [N,3] of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def jet(share: np.ndarray) -> np.ndarray:
    """Returns colours [N,3] from blue at 0 over green to red at 1, as Open3D's."""
    value = 2 * share[:, None] - 1
    centres = np.array([0.5, 0.0, -0.5])
    return np.clip(1.5 - 2 * np.abs(value - centres), 0, 1)


# --- The points -----------------------------------------------------------------------


def _sensed(scene: Scene) -> Sample:
    """Returns the sample before it was resized, the background removed."""
    return scene.sample if scene.sensed is None else scene.sensed


def _points(sample: Sample) -> np.ndarray:
    """Returns the measured points [N,3] in the window's axes, float64 metres."""
    return sample.xyz[measured(sample.xyz)].astype(np.float64) * FROM_SENSOR


def _cloud(params: Parameters, sample: Sample) -> Cloud:
    """Returns the measured points with normals, turned to the sensor, and colours."""
    points = _points(sample)
    normals = geometry.normals(points * FROM_SENSOR) * FROM_SENSOR
    colours = None
    if params["view_colour"] == "grey":
        colours = np.full((len(points), 1), GREY)
    elif params["view_colour"] == "rgb":
        if sample.rgb is None:
            raise DatasetError("recipe: view_colour=rgb needs images, found points")
        colours = sample.rgb[measured(sample.xyz)] / 255
    return Cloud(points, normals, colours)
