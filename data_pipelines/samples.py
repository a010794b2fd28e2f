"""From the files of a sample to a preprocessed record."""

import collections
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import clouds
from data_pipelines.camera import Intrinsics
from data_pipelines.decode import (
    TURNED,
    Decoded,
    decode_depth,
    decode_mask,
    decode_rgb,
    decode_xyz,
)
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.pairing import FILES, GOOD, SampleFiles
from data_pipelines.plausible import checked_points
from data_pipelines.recipes import RECIPES, Applied, Recipe, Sample
from data_pipelines.recipes.base import Regions
from data_pipelines.recipes.extras import MAKERS
from data_pipelines.sensor import PLAIN, Sensor, in_metres

MOST = 0.5  # share of defect pixels, above which a mask may be inverted


class Loaded(NamedTuple):
    """A decoded sample, the number of its points that were no number, and flags."""

    sample: Sample
    nonfinite: int = 0
    flags: tuple[str, ...] = ()  # what reading assumed, see `remarks.SENTENCES`


class Processed(NamedTuple):
    """A preprocessed sample and what the manifest says of it."""

    files: SampleFiles
    applied: Applied
    nonfinite: int
    size: tuple[int, int]  # rows and columns as decoded
    flags: tuple[str, ...]  # of reading and of the recipe
    regions: Regions  # of its mask


def load_sample(files: SampleFiles) -> Loaded:
    """Decodes and checks the files of a sample.

    Raises:
        CorruptSampleError: a file is unreadable; the points are not of the image's
            size, the mask is of another aspect ratio, or labels are not one a point.
    """
    loaded = load_measured(files.rgb, files.xyz, files.sensor, files.camera)
    if files.gt is None or files.split != "test":
        return loaded
    mask, labelled = load_mask(files.gt)
    rgb, xyz, _ = loaded.sample
    if labelled is not None:
        xyz = in_metres(labelled, files.sensor)
    sample = Sample(rgb, xyz, mask.values)
    check_mask_size(files.gt, mask.values.shape, sample.size)
    flags = {*loaded.flags, *mask.flags, *mask_flags(files.defect, mask.values)}
    return Loaded(sample, loaded.nonfinite, tuple(sorted(flags)))


def load_measured(
    rgb: Path | None,
    points: Path | None,
    sensor: Sensor = PLAIN,
    camera: Path | None = None,
) -> Loaded:
    """Decodes what was measured of a sample, without a mask.

    Args:
        rgb: file of its image, if it has one.
        points: file of its points, or its depth image.
        sensor: how they are read.
        camera: file of the intrinsics of this one sample.

    Raises:
        CorruptSampleError: a file is unreadable, the points are not of the image's
            size, or the image has an orientation tag that the points do not have.
    """
    image = Decoded(None) if rgb is None else decode_rgb(rgb)
    if points is None:
        return Loaded(Sample(image.values), 0, image.flags)
    size = None if rgb is None else image.values.shape[:2]
    found = load_points(points, sensor, camera, size)
    if rgb is not None:
        check_xyz_size(points, found.values.shape[:2], size)
        if TURNED in image.flags:
            raise CorruptSampleError(
                rgb,
                "has an orientation tag, and its points have none: store its pixels as "
                "the points lie, without the tag",
            )
    flags = tuple(sorted({*image.flags, *found.flags}))
    return Loaded(Sample(image.values, found.values), found.nonfinite, flags)


def mask_flags(defect: str, mask: np.ndarray) -> tuple[str, ...]:
    """Returns what is odd about a mask of a sample of this defect, or of `good`."""
    share = (mask > 0).mean()
    several = ("several_values",) if len(np.unique(mask[mask > 0])) > 1 else ()
    if defect == GOOD:
        return ("defect_in_good", *several) if share else ()
    if not share:
        return ("empty_mask",)
    mostly = ("mostly_defect",) if share > MOST and mask.shape[1] > 1 else ()
    return (*mostly, *several)


def load_points(
    path: Path,
    sensor: Sensor = PLAIN,
    camera: Path | None = None,
    size: tuple[int, int] | None = None,
) -> Decoded:
    """Returns the points of a file, [h,w,3] or, of a list, [n,1,3], metres.

    Args:
        path: a TIFF, PLY or PCD file, or a depth image.
        sensor: how it is read.
        camera: file of the intrinsics of this one sample.
        size: rows and columns of the sample's image, in whose order the points of PLY
            and PCD files then lie; None = those that the sensor declares, if it does.
    """
    if sensor.depth:
        return decode_depth(path, _camera(path, sensor, camera), sensor.missing)
    if path.suffix.lower() not in clouds.SUFFIXES:
        return decode_xyz(path, sensor)
    stored, nonfinite = clouds.read_points(path)
    xyz, size = in_metres(stored, sensor), size or sensor.size
    if size is None:
        return Decoded(xyz, (), nonfinite)
    if len(xyz) != size[0] * size[1]:
        raise CorruptSampleError(
            path,
            f"expected a point for each of {size[0]} x {size[1]} pixels (rows x "
            f"columns), row by row, found {len(xyz)}",
        )
    xyz, flags, _ = checked_points(path, xyz.reshape(*size, 3))
    return Decoded(xyz, flags, nonfinite)


def _camera(path: Path, sensor: Sensor, own: Path | None) -> Intrinsics:
    try:
        return sensor.camera(own)
    except CorruptSampleError:
        raise
    except DatasetError as error:
        raise CorruptSampleError(own or path, str(error)) from None


def load_mask(path: Path) -> tuple[Decoded, np.ndarray | None]:
    """Returns a mask [h,w] or [n,1] uint8 and, where its file has them, the points."""
    if path.suffix.lower() == clouds.LABEL_SUFFIX:
        labels, xyz = clouds.read_labels(path)
        return Decoded(labels), xyz
    return decode_mask(path), None


def check_xyz_size(path: Path, xyz: tuple[int, int], rgb: tuple[int, int]) -> None:
    """Raises CorruptSampleError unless points and image have one size."""
    if xyz != rgb:
        raise CorruptSampleError(path, f"expected the image's size {rgb}, found {xyz}")


def check_mask_size(path: Path, mask: tuple[int, int], size: tuple[int, int]) -> None:
    """Raises CorruptSampleError unless mask and sample have one aspect ratio.

    Of a list of points the mask has one label each.
    """
    one_each = 1 in (size[1], mask[1]) and mask != size
    if one_each or mask[0] * size[1] != mask[1] * size[0]:
        ratio = "" if size[1] == 1 else " or one of exactly the same aspect ratio"
        raise CorruptSampleError(
            path, f"expected the sample's size {size}{ratio}, found {mask}"
        )


def sample_id(digest: str) -> int:
    """Returns the id, 0 to 2**31 - 1, that a SHA-256 of what was measured gives."""
    return int(digest[:8], 16) & 0x7FFFFFFF


def sample_ids(digests: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Returns the ids of the samples of a class, by their keys.

    An id comes of all that was measured. The first file, rgb or else xyz, says it alone
    unless two samples share it, as the black images of a sensor without colour do: then
    the digests of all their files make the id.

    Args:
        digests: SHA-256 of the files of each sample, by modality.
    """
    first = {key: first_digest(files) for key, files in digests.items()}
    shared = collections.Counter(first.values())
    return {
        key: sample_id(first[key] if shared[first[key]] == 1 else _of_all(files))
        for key, files in digests.items()
    }


def first_digest(files: Mapping[str, str]) -> str:
    """Returns the digest of a sample's image or, where it has none, of its points."""
    return files["rgb"] if "rgb" in files else files["xyz"]


def _of_all(files: Mapping[str, str]) -> str:
    measured = [files[name] for name in ("rgb", "xyz") if name in files]
    if len(measured) == 1:
        return measured[0]
    return hashlib.sha256("".join(measured).encode()).hexdigest()


def file_digests(samples: Iterable[SampleFiles]) -> dict[str, dict[str, str]]:
    """Returns the SHA-256 of each file of each sample, by the sample's key."""
    return {
        files.key: {
            name: sha256(getattr(files, name))
            for name in FILES
            if getattr(files, name) is not None
        }
        for files in samples
    }


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorruptSampleError(path, f"cannot be read: {error.strerror}") from error


def complete_parameters(recipe: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a recipe, its defaults where none are given.

    `extras` names what is made besides what the recipe always makes.

    Raises:
        DatasetError: there is no such recipe or parameter, or it cannot make an extra.
    """
    if recipe not in RECIPES:
        raise DatasetError(
            f"data.recipe: expected one of {sorted(RECIPES)}, found {recipe!r}"
        )
    chosen = RECIPES[recipe]
    defaults = dict(chosen.defaults)
    always, asked = defaults["extras"], parameters.get("extras", ())
    unknown = sorted(set(asked) - set(chosen.extras))
    if unknown:
        can = ", ".join(chosen.extras) or "none"
        raise DatasetError(
            f"extras: recipe {recipe} cannot make {', '.join(unknown)}; it can make: "
            f"{can}"
        )
    extras = [*always, *sorted(set(asked) - set(always))]
    for name in extras:
        defaults = {**MAKERS[name].defaults, **defaults}
    unknown = sorted(set(parameters) - set(defaults))
    if unknown:
        raise DatasetError(
            f"recipe {recipe}: no parameter {', '.join(unknown)}; it has "
            f"{', '.join(sorted(defaults))}"
        )
    return {**defaults, **parameters, "extras": extras}


def fit_recipe(
    recipe: Recipe,
    parameters: Mapping[str, Any],
    training: Iterable[SampleFiles],
) -> dict[str, Any]:
    """Returns what the recipe learns from the normal training samples."""
    return recipe.fit(parameters, (load_sample(files).sample for files in training))


def records(
    recipe: Recipe, params: Mapping[str, Any], samples: Iterable[SampleFiles]
) -> Iterator[Processed]:
    """Yields each sample preprocessed, in order."""
    for files in samples:
        sample, nonfinite, flags = load_sample(files)
        applied, regions = recipe.process(params, sample)
        flags = (*flags, *applied.flags)
        if regions.count and regions.lost == regions.count:
            flags = (*flags, "mask_vanished")
        yield Processed(files, applied, nonfinite, sample.size, flags, regions)


def measured_by(files: SampleFiles) -> frozenset[str]:
    """Returns which of "rgb" and "xyz" a sample has."""
    return frozenset(m for m in ("rgb", "xyz") if getattr(files, m) is not None)
