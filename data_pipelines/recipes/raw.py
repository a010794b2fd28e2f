"""The recipe `raw`: nothing but resizing; every measured point counts as object."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ad3d_jax.features.patches import cell_pool
from data_pipelines import geometry
from data_pipelines.errors import DatasetError
from data_pipelines.recipes.base import Applied, Parameters, Recipe, Sample, sizes
from data_pipelines.resize import (
    INTERPOLATIONS,
    centre_crop,
    resize_nearest,
    resize_picture,
    resized_size,
)

DEFAULTS = {
    "image_size": 256,
    "mask_size": None,  # None = image_size
    "interpolation": "area",  # of the picture: area | bilinear | bicubic | lanczos
    "resize_size": None,  # shorter side before a centre crop; None = no crop
    "fpfh": "jnp",  # jnp = left to the system | open3d = the extra `fpfh`
}
FPFH_MAKERS = ("jnp", "open3d")
FPFH_CELLS = 28  # a side


def fit(parameters: Parameters, samples: Iterable[Sample]) -> dict[str, Any]:
    """Returns the parameters; nothing is learned from the samples.

    Raises:
        DatasetError: a parameter is out of its range, or FPFH by Open3D is asked for
            and Open3D cannot be imported.
    """
    del samples
    check(parameters)
    return dict(parameters)


def check(parameters: Parameters) -> None:
    """Raises what `fit` raises."""
    image_size, _ = sizes(parameters)
    resize_size = parameters["resize_size"]
    whole = isinstance(resize_size, int)
    if resize_size is not None and not (whole and resize_size >= max(image_size)):
        raise DatasetError(
            f"recipe: resize_size: expected None or at least image_size {image_size}, "
            f"found {resize_size!r}"
        )
    check_choice("interpolation", parameters, INTERPOLATIONS)
    check_choice("fpfh", parameters, FPFH_MAKERS)
    if parameters["fpfh"] == "open3d":
        geometry.open3d()


def check_choice(name: str, parameters: Parameters, allowed: tuple[str, ...]) -> None:
    """Raises DatasetError unless a parameter is one of `allowed`."""
    if parameters[name] not in allowed:
        raise DatasetError(
            f"recipe: {name}: expected {' or '.join(allowed)}, found "
            f"{parameters[name]!r}"
        )


def apply(params: Parameters, sample: Sample) -> Applied:
    """Resizes a sample; depth is z as measured, 0 where it is missing.

    Returns:
        The record of `base.Recipe`, with the extra `fpfh` [28,28,33] float32 where it
        is asked for: see `fpfh_cells`.
    """
    image_size, mask_size = sizes(params)
    resize_size = params["resize_size"]
    record = pictures(
        sample, image_size, mask_size, params["interpolation"], resize_size
    )
    if sample.xyz is None:
        return Applied(record)
    size = resized_size(sample.xyz.shape[:2], image_size, resize_size)
    xyz = centre_crop(resize_nearest(sample.xyz, size), image_size)
    depth = np.maximum(xyz[..., 2:], 0)
    valid = depth > 0
    record.update(xyz=xyz, depth=depth, valid=valid, foreground=valid.copy())
    if params["fpfh"] == "open3d":
        record["fpfh"] = fpfh_cells(xyz)
    measured = (sample.xyz[..., 2] > 0).any()
    return Applied(record, () if measured else ("nothing_measured",))


def pictures(
    sample: Sample,
    image_size: tuple[int, int],
    mask_size: tuple[int, int],
    interpolation: str = "area",
    resize_size: int | None = None,
) -> dict[str, np.ndarray]:
    """Returns the fields rgb and mask of a record, resized and cropped alike.

    Args:
        sample: decoded.
        image_size: rows and columns of rgb.
        mask_size: rows and columns of the mask, which shows what rgb shows.
        interpolation: a name of `resize.INTERPOLATIONS`.
        resize_size: see `resize.resized_size`.
    """
    size = resized_size(sample.rgb.shape[:2], image_size, resize_size)
    rgb = resize_picture(sample.rgb, size, interpolation)
    if sample.mask is None:
        mask = np.zeros((*mask_size, 1), bool)
    else:
        rows, columns = (
            round(whole * wanted / seen)
            for whole, wanted, seen in zip(size, mask_size, image_size, strict=True)
        )
        mask = resize_nearest(sample.mask > 0, (rows, columns))
        mask = centre_crop(mask, mask_size)[..., None]
    return {"rgb": centre_crop(rgb, image_size), "mask": mask}


def fpfh_cells(xyz: np.ndarray) -> np.ndarray:
    """Returns Open3D's FPFH of a resized cloud, averaged over a grid of cells.

    As BTF (Horwitz and Hoshen, CVPRW 2023): points are pixels whose coordinates all
    differ from 0; other pixels have a histogram of zeros.

    Args:
        xyz: [H,W,3] metres.

    Returns:
        [28,28,33] float32.
    """
    there = (xyz != 0).all(-1)
    pixels = np.zeros((*xyz.shape[:2], geometry.FPFH_SIZE), np.float32)
    pixels[there] = geometry.normals_and_fpfh(xyz[there])
    return np.asarray(cell_pool(pixels[None], cells=FPFH_CELLS))[0]


def extras(params: Parameters) -> Mapping[str, tuple[tuple[int, ...], str]]:
    """Returns the shape and dtype of `fpfh` where Open3D makes it."""
    if params["fpfh"] != "open3d":
        return {}
    return {"fpfh": ((FPFH_CELLS, FPFH_CELLS, geometry.FPFH_SIZE), "float32")}


RAW = Recipe("raw", DEFAULTS, extras, fit, apply)
