"""Reads a folder of samples without labels, for prediction.

    FOLDER/rgb/NAME.png, FOLDER/xyz/NAME.tiff           or both in FOLDER itself
    FOLDER/rgb/NAME.png, FOLDER/depth/NAME.png, FOLDER/camera.json
    FOLDER/NAME.png                                     images alone
    FOLDER/xyz/NAME.{tiff,ply,pcd}, or in FOLDER itself  points alone

Depth images have 16 bits, and pixels that fit those of the image; `camera.json` is
described at `camera.read_intrinsics`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from ad3d_jax.base import Batch
from data_pipelines.batches import assemble
from data_pipelines.camera import Intrinsics, read_intrinsics
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.folders import entries
from data_pipelines.layout import SUFFIXES
from data_pipelines.measured import distance
from data_pipelines.recipes import RECIPES, Record, Sample
from data_pipelines.remarks import SENTENCES
from data_pipelines.samples import (
    complete_parameters,
    load_measured,
    sample_ids,
    sha256,
)

CAMERA = "camera.json"
SHOWN = 5  # files that are not read
EXPECTED = __doc__
SQUASHED = 0.01
OTHER = 2.0  # times the distances that were fitted, above which a unit may be wrong
UNREAD = "0" * 64


def read_folder(
    folder: str | Path,
    recipe: str,
    params: Mapping[str, Any],
    needs: Iterable[str],
    sizes: Collection[tuple[int, int]] = (),
    distances: Sequence[float] = (),
    left_out: list[CorruptSampleError] | None = None,
) -> Iterator[tuple[str, Record]]:
    """Finds the samples of a folder and returns an iterator that preprocesses them.

    Args:
        folder: see the module.
        recipe: a name of `recipes.RECIPES`.
        params: what the recipe learned, as in the manifest or a workdir's origin.json.
        needs: names of batch fields; points are read only if a name other than rgb is
            among them or the recipe needs points, and must then be there.
        sizes: of the samples that the system was fitted on, see `check_proportions`.
        distances: of them, see `to_record`.
        left_out: gets the error of each sample that cannot be read, which is passed
            over; None = it is raised.

    Returns:
        An iterator of (name, record), sorted by name; a record has an `id` besides what
        the recipe makes, and no mask. No two samples have one name: it is the stem of
        the first file, with its ending where stems are not enough.

    Raises:
        DatasetError: (at once) there are no images, or points are needed and missing;
            (CorruptSampleError) two files have one stem and only one can be meant, or,
            while iterating, a file cannot be read.
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
    first = points if not images and "rgb" not in needs else images
    names = [name for name, files in first.items() for _ in files]
    if not names:
        raise DatasetError(f"input: no images in {folder}; expected\n{EXPECTED}")
    missing = [name for name in names if name not in points]
    if reasons and missing:
        raise DatasetError(
            f"input: {', '.join(reasons)} needs points, and there are none for "
            f"{images[missing[0]][0]} and {len(missing) - 1} others; expected\n"
            f"{EXPECTED}"
        )
    twins = _twins(images) | (_twins(points) if reasons else {})
    refused = list(twins.values()) if reasons else []
    if refused and left_out is None:
        raise refused[0]
    paired = {name: points[name] for name in names} if reasons else points
    both = (*first.values(), *paired.values())
    used = [path for paths in both for path in paths]
    _tell_not_read(folder, [*used, folder / CAMERA] if intrinsics else used)
    files = []
    for stem, found in first.items():
        if reasons and stem in twins:
            continue
        for path in found:
            name = path.name if twins and not reasons else stem
            image = path if first is images else None
            files.append(_Files(name, image, points[stem][0] if reasons else None))
    if refused:
        left_out += refused
    own = partial(to_record, recipe, params, distances=distances)
    return _records(files, intrinsics, own, sizes, left_out)


def _twins(files: Mapping[str, Sequence[Path]]) -> dict[str, CorruptSampleError]:
    """Returns what is said of each stem that more than one file has."""
    expected = "expected one file of each kind for a sample, found"
    return {
        stem: CorruptSampleError(
            paths[0], f"{expected} {' and '.join(path.name for path in paths)}"
        )
        for stem, paths in files.items()
        if len(paths) > 1
    }


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
    distances: Sequence[float] = (),
) -> tuple[Record, tuple[str, ...]]:
    """Returns a measured sample as `collate` takes it, and what had to be given up.

    Args:
        recipe: a name of `recipes.RECIPES`.
        params: what the recipe learned.
        id: of the sample, 0 to 2**31 - 1.
        rgb: [h,w,3] uint8; None = no image.
        xyz: [h,w,3] float32 metres, (0,0,0) where unmeasured; None = no points.
        distances: least and greatest of what was fitted, metres; () = not known.
    """
    params = {**complete_parameters(recipe, {}), **params}  # one may be newer
    record, flags = RECIPES[recipe].apply(params, Sample(rgb, xyz))
    del record["mask"]
    metres = distance(record.get("xyz"))
    if metres is not None and distances:
        least, greatest = distances
        if not least / OTHER <= metres <= OTHER * greatest:
            flags = (*flags, "other_distance")
    return {**record, "id": np.int32(id)}, flags


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
    image: Path | None
    points: Path | None


def check_proportions(
    size: tuple[int, int], sizes: Collection[tuple[int, int]]
) -> None:
    """Refuses an image that the recipe would squash unlike those that were fitted.

    Proportions may differ by SQUASHED.

    Args:
        size: rows and columns.
        sizes: of the samples that were fitted; lists of points have one column.

    Raises:
        DatasetError: none of them has the proportions of this one.
    """
    lists = 1 in (size[1], *(w for _, w in sizes))
    squashed = (abs(h * size[1] / (w * size[0]) - 1) for h, w in sizes)
    if not lists and min(squashed) > SQUASHED:
        seen = ", ".join(f"{h} x {w}" for h, w in sizes)
        raise DatasetError(
            f"expected the proportions of what the system was fitted on ({seen} "
            f"pixels, rows by columns), found {size[0]} x {size[1]}"
        )


def _by_stem(
    folder: Path, name: str, suffixes: tuple[str, ...]
) -> dict[str, list[Path]]:
    place = folder / name if (folder / name).is_dir() else folder
    found: dict[str, list[Path]] = {}
    for path in entries(place):
        if path.suffix.lower() in suffixes:
            found.setdefault(path.stem, []).append(path)
    return found


def _tell_not_read(folder: Path, used: Iterable[Path]) -> None:
    """Logs what lies beside the files that are used, folders as a whole."""
    used = set(used)
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
    samples: Sequence[_Files],
    intrinsics: Intrinsics | None,
    record_of: Callable[..., tuple[Record, tuple[str, ...]]],
    sizes: Collection[tuple[int, int]],
    left_out: list[CorruptSampleError] | None,
) -> Iterator[tuple[str, Record]]:
    told: set[str] = set()
    ids = _ids(samples)
    for files in samples:
        try:
            sample, flags = _read(files, intrinsics, sizes)
        except CorruptSampleError as error:
            if left_out is None:
                raise
            left_out.append(error)
            continue
        number = ids[files.name]
        record, given_up = record_of(number, sample.rgb, sample.xyz)
        tell(files.name, (*flags, *given_up), told)
        yield files.name, record


def tell(name: str, flags: Iterable[str], told: set[str]) -> None:
    """Logs what is odd about a sample, but for flags that were told, and adds them."""
    for flag in sorted(set(flags) - told):
        logging.warning("%s: %s (told once)", name, SENTENCES[flag])
    told.update(flags)


def _read(
    files: _Files, intrinsics: Intrinsics | None, sizes: Collection[tuple[int, int]]
) -> tuple[Sample, tuple[str, ...]]:
    """Returns the content of a sample, and what is odd about its files.

    Raises:
        CorruptSampleError: a file cannot be read, or does not fit the others or what
            was fitted.
    """
    sample, _, flags = load_measured(files.image, files.points, intrinsics)
    path = files.points if files.image is None else files.image
    if sizes:
        try:
            check_proportions(sample.size, sizes)
        except DatasetError as error:
            raise CorruptSampleError(path, str(error)) from None
    return sample, flags


def _ids(samples: Iterable[_Files]) -> dict[str, int]:
    """Returns the ids of samples by name, as those of a class have them."""
    digests = {
        files.name: {
            name: _digest(path)
            for name, path in (("rgb", files.image), ("xyz", files.points))
            if path is not None
        }
        for files in samples
    }
    return sample_ids(digests)


def _digest(path: Path) -> str:
    """Returns a file's SHA-256; of what cannot be read, as is told later, another."""
    with suppress(CorruptSampleError):
        if path.is_file():
            return sha256(path)
    return UNREAD


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
