"""Reads a folder of samples without labels, for prediction.

    FOLDER/rgb/NAME.png, FOLDER/xyz/NAME.tiff           or both in FOLDER itself
    FOLDER/rgb/NAME.png, FOLDER/depth/NAME.png, FOLDER/camera.json
    FOLDER/NAME.png                                     pictures alone

Depth pictures have 16 bits, and pixels that fit those of the picture; `camera.json` is
described at `camera.read_intrinsics`.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ad3d_jax.base import Batch
from data_pipelines.batches import assemble
from data_pipelines.camera import Intrinsics, read_intrinsics
from data_pipelines.decode import read_depth_png, read_rgb, read_xyz
from data_pipelines.errors import DatasetError
from data_pipelines.layout import SUFFIXES
from data_pipelines.recipes import RECIPES, Record, Sample
from data_pipelines.samples import (
    check_xyz_size,
    record_fields,
    sample_id,
    sha256,
)

CAMERA = "camera.json"
EXPECTED = __doc__


def read_folder(
    folder: str | Path,
    recipe: str,
    params: Mapping[str, Any],
    needs: Iterable[str],
) -> Iterator[tuple[str, Record]]:
    """Finds the samples of a folder and returns an iterator that preprocesses them.

    Args:
        folder: see the module.
        recipe: a name of `recipes.RECIPES`.
        params: what the recipe learned, as in the manifest or a workdir's recipe.json.
        needs: names of batch fields; points are read only if a name other than rgb is
            among them or the recipe needs points, and must then be there.

    Returns:
        An iterator of (name, record), sorted by name; a record has an `id` besides what
        the recipe makes, and no mask.

    Raises:
        DatasetError: (at once) there are no pictures, or points are needed and missing;
            (while iterating, CorruptSampleError) a file cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"input: {folder} is not a folder")
    if recipe not in RECIPES:
        raise DatasetError(
            f"recipe: expected one of {sorted(RECIPES)}, found {recipe!r}"
        )
    pictures = _by_stem(folder, "rgb", SUFFIXES["rgb"])
    if not pictures:
        raise DatasetError(f"input: no pictures in {folder}; expected\n{EXPECTED}")
    points: dict[str, Path] = {}
    intrinsics = None
    reasons = needs_points(recipe, needs)
    if reasons:
        points = _by_stem(folder, "xyz", SUFFIXES["xyz"])
        if not points and (folder / "depth").is_dir():
            points = _by_stem(folder, "depth", (".png",))
            intrinsics = read_intrinsics(folder / CAMERA)
        missing = sorted(set(pictures) - set(points))
        if missing:
            raise DatasetError(
                f"input: {', '.join(reasons)} needs points, and there are none "
                f"for {pictures[missing[0]]} and {len(missing) - 1} others; "
                f"expected\n{EXPECTED}"
            )
    return _records(pictures, points, intrinsics, recipe, params)


def needs_points(recipe: str, needs: Iterable[str]) -> list[str]:
    """Returns what needs points: batch fields other than rgb, the recipe itself."""
    reasons = sorted(set(needs) - {"rgb"})
    return [*reasons, f"recipe {recipe}"] if RECIPES[recipe].needs_xyz else reasons


def to_record(
    recipe: str,
    params: Mapping[str, Any],
    id: int,
    rgb: np.ndarray,
    xyz: np.ndarray | None = None,
) -> Record:
    """Returns a measured sample as `collate` takes it.

    Args:
        recipe: a name of `recipes.RECIPES`.
        params: what the recipe learned.
        id: of the sample, 0 to 2**31 - 1.
        rgb: [h,w,3] uint8.
        xyz: [h,w,3] float32 metres, (0,0,0) where unmeasured; None = no points.
    """
    params = {**RECIPES[recipe].defaults, **params}  # a parameter may be newer
    record = RECIPES[recipe].apply(params, Sample(rgb, xyz)).record
    del record["mask"]
    return {**record, "id": np.int32(id)}


def empty_record(
    recipe: str, params: Mapping[str, Any], needs: Iterable[str]
) -> Record:
    """Returns a record of zeros, for its shapes and dtypes alone."""
    params = {**RECIPES[recipe].defaults, **params}
    with_xyz = bool(needs_points(recipe, needs))
    fields = record_fields(RECIPES[recipe], params, with_xyz)
    del fields["mask"]
    record = {name: np.zeros(*field) for name, field in fields.items()}
    return {**record, "id": np.int32(0)}


def _by_stem(folder: Path, name: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    place = folder / name if (folder / name).is_dir() else folder
    paths = sorted(place.iterdir(), key=lambda path: path.name)
    return {
        path.stem: path
        for path in paths
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    }


def _records(
    pictures: Mapping[str, Path],
    points: Mapping[str, Path],
    intrinsics: Intrinsics | None,
    recipe: str,
    params: Mapping[str, Any],
) -> Iterator[tuple[str, Record]]:
    for name, path in pictures.items():
        rgb, xyz = read_rgb(path), None
        if points:
            if intrinsics is None:
                xyz, _ = read_xyz(points[name])
            else:
                _, xyz = read_depth_png(points[name], intrinsics)
            check_xyz_size(points[name], xyz.shape[:2], rgb.shape[:2])
        yield name, to_record(recipe, params, sample_id(sha256(path)), rgb, xyz)


def collate(records: Iterable[Record], batch_size: int) -> Batch:
    """Returns up to `batch_size` records, one at least, as a batch.

    The batch is filled up with rows of weight 0; category is 0, mask and label None.
    """
    records = list(records)
    if not 0 < len(records) <= batch_size:
        raise DatasetError(
            f"collate: expected 1 to {batch_size} records, found {len(records)}"
        )
    arrays = {name: np.stack([r[name] for r in records]) for name in records[0]}
    arrays["category"] = np.zeros(len(records), np.int32)
    return assemble(arrays, batch_size)
