"""Reads a folder of samples without labels, for prediction.

    FOLDER/rgb/NAME.png, FOLDER/xyz/NAME.tiff           or both in FOLDER itself
    FOLDER/rgb/NAME.png, FOLDER/depth/NAME.png, FOLDER/camera.json
    FOLDER/NAME.png                                     images alone
    FOLDER/xyz/NAME.{tiff,ply,pcd}, or in FOLDER itself  points alone

Depth images have 16 bits, and pixels that fit those of the image; `camera.json` is
described at `camera.read_intrinsics`.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from ad3d_jax.base import Batch
from data_pipelines.batches import assemble
from data_pipelines.camera import Intrinsics, read_intrinsics
from data_pipelines.errors import DatasetError
from data_pipelines.folders import entries
from data_pipelines.layout import SUFFIXES
from data_pipelines.recipes import RECIPES, Record, Sample
from data_pipelines.remarks import SENTENCES
from data_pipelines.samples import (
    complete_parameters,
    load_measured,
    sample_id,
    sha256,
)

CAMERA = "camera.json"
SHOWN = 5  # files that are not read
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
        DatasetError: (at once) there are no images, two have one stem, or points are
            needed and missing; (while iterating, CorruptSampleError) a file cannot be
            read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"input: {folder} is not a folder")
    if recipe not in RECIPES:
        raise DatasetError(
            f"recipe: expected one of {sorted(RECIPES)}, found {recipe!r}"
        )
    images = _by_stem(folder, "rgb", SUFFIXES["rgb"])
    points = _by_stem(folder, "xyz", SUFFIXES["xyz"])
    intrinsics = None
    if not points and (folder / "depth").is_dir():
        points = _by_stem(folder, "depth", (".png",))
        intrinsics = points and read_intrinsics(folder / CAMERA)
    reasons = needs_points(recipe, needs)
    names = list(images)
    if not images and "rgb" not in needs:
        names = list(points)
    if not names:
        raise DatasetError(f"input: no images in {folder}; expected\n{EXPECTED}")
    missing = [name for name in names if name not in points]
    if reasons and missing:
        raise DatasetError(
            f"input: {', '.join(reasons)} needs points, and there are none for "
            f"{images[missing[0]]} and {len(missing) - 1} others; expected\n{EXPECTED}"
        )
    _tell_not_read(folder, [*images.values(), *points.values()])
    files = [
        _Files(name, images.get(name), points[name] if reasons else None)
        for name in names
    ]
    return _records(files, intrinsics, recipe, params)


def needs_points(recipe: str, needs: Iterable[str]) -> list[str]:
    """Returns what needs points: batch fields other than rgb, the recipe itself."""
    reasons = sorted(set(needs) - {"rgb"})
    return [*reasons, f"recipe {recipe}"] if RECIPES[recipe].needs_xyz else reasons


def to_record(
    recipe: str,
    params: Mapping[str, Any],
    id: int,
    rgb: np.ndarray | None = None,
    xyz: np.ndarray | None = None,
) -> Record:
    """Returns a measured sample as `collate` takes it.

    Args:
        recipe: a name of `recipes.RECIPES`.
        params: what the recipe learned.
        id: of the sample, 0 to 2**31 - 1.
        rgb: [h,w,3] uint8; None = no image.
        xyz: [h,w,3] float32 metres, (0,0,0) where unmeasured; None = no points.
    """
    params = {**complete_parameters(recipe, {}), **params}  # one may be newer
    record = RECIPES[recipe].apply(params, Sample(rgb, xyz)).record
    del record["mask"]
    return {**record, "id": np.int32(id)}


def empty_record(
    recipe: str, params: Mapping[str, Any], needs: Iterable[str]
) -> Record:
    """Returns a record of zeros, for its shapes and dtypes alone."""
    params = {**complete_parameters(recipe, {}), **params}
    measured = {"rgb"} | ({"xyz"} if needs_points(recipe, needs) else set())
    fields = RECIPES[recipe].fields(params, frozenset(measured))
    del fields["mask"]
    record = {name: np.zeros(*field) for name, field in fields.items()}
    return {**record, "id": np.int32(0)}


class _Files(NamedTuple):
    """The files of a sample; one that is absent, or not needed, is None."""

    name: str
    rgb: Path | None
    points: Path | None


def _by_stem(folder: Path, name: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    place = folder / name if (folder / name).is_dir() else folder
    found: dict[str, Path] = {}
    for path in entries(place):
        if path.suffix.lower() not in suffixes:
            continue
        if path.stem in found:
            raise DatasetError(
                f"input: {path} has the same stem as {found[path.stem].name}, and "
                "files are paired by stem"
            )
        found[path.stem] = path
    return found


def _tell_not_read(folder: Path, used: Iterable[Path]) -> None:
    """Logs what lies beside the files that are used, folders as a whole."""
    used = {*used, folder / CAMERA}
    places = {folder, *(path.parent for path in used)}
    left = [
        path
        for place in sorted(places)
        for path in entries(place)
        if path not in used and path not in places
    ]
    if left:
        shown = ", ".join(str(path.relative_to(folder)) for path in left[:SHOWN])
        more = f" and {len(left) - SHOWN} more" * (len(left) > SHOWN)
        logging.warning("%s: not read: %s%s", folder, shown, more)


def _records(
    samples: Iterable[_Files],
    intrinsics: Intrinsics | None,
    recipe: str,
    params: Mapping[str, Any],
) -> Iterator[tuple[str, Record]]:
    told: set[str] = set()
    for name, image, points in samples:
        sample, _, flags = load_measured(image, points, intrinsics)
        for flag in sorted(set(flags) - told):
            logging.warning("%s: %s (told once)", name, SENTENCES[flag])
        told.update(flags)
        number = sample_id(sha256(points if image is None else image))
        yield name, to_record(recipe, params, number, sample.rgb, sample.xyz)


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
