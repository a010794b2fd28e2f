"""The step of a recipe that resizes: one rule for images, one for all other maps."""

import numpy as np

from data_pipelines.errors import DatasetError
from data_pipelines.recipes.base import (
    Parameters,
    Sample,
    Scene,
    check_choice,
    check_whole,
    sizes,
)
from data_pipelines.resize import (
    INTERPOLATIONS,
    centre_crop,
    crop_begins,
    resize_image,
    resize_linear,
    resize_nearest,
    resized_size,
)

DEFAULTS = {
    "image_size": 256,
    "mask_size": None,  # None = image_size
    # Of the image: area | linear | bilinear | bicubic | lanczos.
    "interpolation": "area",
    "resize_size": None,  # shorter side before a centre crop; None = no crop
}
# Of scenes that are resized after their background was found: nearest | linear. With
# linear a pixel is valid, or foreground, if any of the four that it is made of is.
SCENE_DEFAULTS = {"depth_interpolation": "nearest"}


def check(parameters: Parameters) -> None:
    """Raises DatasetError where a parameter is out of its range."""
    for name in ("image_size", "mask_size"):
        size = parameters[name]
        for length in size if isinstance(size, tuple | list) else (size,):
            if size is not None:
                check_whole(name, {name: length}, 1)
    image_size, _ = sizes(parameters)
    resize_size = parameters["resize_size"]
    whole = isinstance(resize_size, int)
    if resize_size is not None and not (whole and resize_size >= max(image_size)):
        raise DatasetError(
            f"recipe: resize_size: expected None or at least image_size {image_size}, "
            f"found {resize_size!r}"
        )
    check_choice("interpolation", parameters, INTERPOLATIONS)
    if "depth_interpolation" in parameters:
        check_choice("depth_interpolation", parameters, ("nearest", "linear"))


def resized(params: Parameters, sample: Sample) -> Sample:
    """Returns a sample resized and cropped, with a mask [Hm,Wm] in any case."""
    image_size, mask_size = sizes(params)
    size = resized_size(sample.size, image_size, params["resize_size"])
    rgb, xyz = sample.rgb, sample.xyz
    if rgb is not None:
        rgb = centre_crop(resize_image(rgb, size, params["interpolation"]), image_size)
    if xyz is not None:
        xyz = _picked(xyz, size, image_size)
    if sample.mask is None:
        return Sample(rgb, xyz, np.zeros(mask_size, bool))
    rows, columns = (
        round(whole * wanted / seen)
        for whole, wanted, seen in zip(size, mask_size, image_size, strict=True)
    )
    return Sample(rgb, xyz, _picked(sample.mask, (rows, columns), mask_size))


def resized_scene(params: Parameters, scene: Scene) -> Scene:
    """Returns a scene with its sample and all of its maps resized and cropped."""
    image_size, _ = sizes(params)
    size = resized_size(scene.sample.size, image_size, params["resize_size"])
    resize_map = (
        _picked if params["depth_interpolation"] == "nearest" else _interpolated
    )
    maps = {name: resize_map(x, size, image_size) for name, x in scene.maps.items()}
    height = scene.height
    if height is not None:
        height = _picked(height, size, image_size)
    return scene._replace(
        sample=resized(params, scene.sample),
        maps=maps,
        height=height,
        sensed=scene.sample,
    )


def to_picture(
    params: Parameters, values: np.ndarray, source: tuple[int, int]
) -> np.ndarray:
    """Returns a map of a resized sample at the sample's own size, [h,w] float32.

    It is interpolated between the centres of pixels, as `resize_linear` does; NaN where
    the crop took pixels away.

    Args:
        params: of the recipe that resized the sample.
        values: [H,W] float, at the recipe's size.
        source: (h, w) of the sample.
    """
    size = resized_size(source, values.shape, params["resize_size"])
    top, left = before = crop_begins(size, values.shape)
    cut = zip(size, values.shape, before, strict=True)
    behind = (whole - kept - first for whole, kept, first in cut)
    whole = np.pad(values, [*zip(before, behind, strict=True)], mode="edge")
    whole = resize_linear(whole, source)
    inside = top, left, top + values.shape[0], left + values.shape[1]
    top, left, bottom, right = _enlarged(inside, size, source)
    found = np.full(source, np.nan, np.float32)
    found[top:bottom, left:right] = whole[top:bottom, left:right]
    return found


def box_in_picture(
    params: Parameters,
    box: tuple[int, int, int, int],
    image: tuple[int, int],
    source: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Returns the pixels of a sample that some pixels of its map were made of.

    Args:
        params: of the recipe that resized the sample.
        box: top, left, bottom and right in the map; ends are exclusive.
        image: (H, W) of the map.
        source: (h, w) of the sample.
    """
    size = resized_size(source, image, params["resize_size"])
    top, left = crop_begins(size, image)
    moved = box[0] + top, box[1] + left, box[2] + top, box[3] + left
    return _enlarged(moved, size, source)


def _enlarged(
    box: tuple[int, int, int, int], size: tuple[int, int], source: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Returns the pixels at another size that a box has a part of."""
    top, left, bottom, right = box
    (rows, columns), (height, width) = size, source
    return (
        top * height // rows,
        left * width // columns,
        -(-bottom * height // rows),
        -(-right * width // columns),
    )


def _interpolated(
    array: np.ndarray, size: tuple[int, int], cropped: tuple[int, int]
) -> np.ndarray:
    found = np.ascontiguousarray(centre_crop(resize_linear(array, size), cropped))
    return found > 0 if array.dtype == bool else found


def _picked(
    array: np.ndarray, size: tuple[int, int], cropped: tuple[int, int]
) -> np.ndarray:
    picked = centre_crop(resize_nearest(array, size), cropped)
    return np.ascontiguousarray(picked)
