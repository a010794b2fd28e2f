"""What is said of a sample, at the size of its own picture, and as files.

A picture is upright: where its file has an orientation tag, rows and columns are those
that viewers show. All files here lie as the upright picture does, without a tag.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from ad3d_jax.decision import Box
from ad3d_jax.report.colors import contour, heat_map, overlay
from ad3d_jax.workdir import names
from ad3d_jax.workdir.atomic import open_whole
from ad3d_jax.workdir.images import write_image
from data_pipelines.recipes.resizing import box_in_picture, to_picture

RAW = ("npy", "tiff")  # kinds of files of maps as numbers
Size = tuple[int, int]  # rows and columns


def in_picture(
    recipe: Mapping[str, Any], map: np.ndarray, boxes: Iterable[Box], size: Size
) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Returns the map [h,w] float32 and the boxes of a sample in its picture.

    The map is NaN where the recipe cropped. A list of points has no picture: its map is
    that of the points that the recipe chose.

    Args:
        recipe: name and parameters of the preprocessing.
        map: [H,W] float32, at the recipe's size.
        boxes: in the map.
        size: of the picture.
    """
    params = recipe["params"]
    if "image_size" not in params:
        return map, tuple(boxes)
    moved = (
        Box(*box_in_picture(params, box[:4], map.shape, size), box.peak)
        for box in boxes
    )
    return to_picture(params, map, size), tuple(moved)


def write_images(
    output: Path,
    name: str,
    rgb: np.ndarray | None,
    map: np.ndarray,
    boxes: Iterable[Box],
    colours: tuple[float, float],
    raw: str = "",
) -> None:
    """Writes the heat map and, where there is a picture, the map over it, as PNG.

    Args:
        output: folder of the prediction.
        name: of the sample.
        rgb: its picture [h,w,3] uint8, if it has one.
        map: [h,w] float32.
        boxes: in the picture, drawn on it.
        colours: values of the map that are drawn as nothing and as certain.
        raw: one of RAW, for the map as numbers, too.
    """
    plain = names.plain_name(name)
    images = {names.HEAT_MAPS: heat_map(map, *colours)}
    if rgb is not None:
        drawn, marked = overlay(rgb, map, *colours), np.zeros(map.shape, bool)
        for top, left, bottom, right, _ in boxes:
            marked[top:bottom, left:right] = True
        images[names.OVERLAYS] = contour(drawn, marked) if marked.any() else drawn
    for folder, image in images.items():
        write_image(_file(output / folder, f"{plain}.png"), image)
    if raw:
        with open_whole(_file(output / names.RAW, f"{plain}.{raw}")) as file:
            if raw == "npy":
                np.save(file, map, allow_pickle=False)
            else:
                tifffile.imwrite(file, map)


def _file(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
