"""From the files of a sample to a preprocessed record."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.decode import read_mask, read_rgb, read_xyz
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.layout import SampleFiles
from data_pipelines.recipes import RECIPES, Applied, Recipe, Sample
from data_pipelines.recipes.base import sizes


class Loaded(NamedTuple):
    """A decoded sample and the number of its points that were NaN or infinite."""

    sample: Sample
    nonfinite: int = 0


class Processed(NamedTuple):
    """A preprocessed sample and what the manifest says of it."""

    files: SampleFiles
    applied: Applied
    nonfinite: int
    size: tuple[int, int]  # rows and columns of the picture as decoded


def load_sample(files: SampleFiles) -> Loaded:
    """Decodes and checks the files of a sample.

    Raises:
        CorruptSampleError: a file is unreadable; the points are not of the picture's
            size, or the mask is of another aspect ratio.
    """
    rgb = read_rgb(files.rgb)
    xyz, nonfinite, mask = None, 0, None
    if files.xyz is not None:
        xyz, nonfinite = read_xyz(files.xyz)
        check_xyz_size(files.xyz, xyz.shape[:2], rgb.shape[:2])
    if files.gt is not None and files.split == "test":
        mask = read_mask(files.gt)
        check_mask_size(files.gt, mask.shape, rgb.shape[:2])
    return Loaded(Sample(rgb, xyz, mask), nonfinite)


def check_xyz_size(path: Path, xyz: tuple[int, int], rgb: tuple[int, int]) -> None:
    """Raises CorruptSampleError unless points and picture have one size."""
    if xyz != rgb:
        raise CorruptSampleError(
            path, f"expected the picture's size {rgb}, found {xyz}"
        )


def check_mask_size(path: Path, mask: tuple[int, int], rgb: tuple[int, int]) -> None:
    """Raises CorruptSampleError unless mask and picture have one aspect ratio."""
    if mask[0] * rgb[1] != mask[1] * rgb[0]:
        raise CorruptSampleError(
            path,
            f"expected the picture's size {rgb} or one of exactly the same aspect "
            f"ratio, found {mask}",
        )


def sample_id(digest: str) -> int:
    """Returns the id of a sample, 0 to 2**31 - 1, from the SHA-256 of its picture."""
    return int(digest[:8], 16) & 0x7FFFFFFF


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorruptSampleError(path, f"cannot be read: {error.strerror}") from error


def complete_parameters(recipe: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a recipe, its defaults where none are given.

    Raises:
        DatasetError: there is no such recipe or parameter.
    """
    if recipe not in RECIPES:
        raise DatasetError(
            f"data.recipe: expected one of {sorted(RECIPES)}, found {recipe!r}"
        )
    defaults = RECIPES[recipe].defaults
    unknown = sorted(set(parameters) - set(defaults))
    if unknown:
        raise DatasetError(
            f"recipe {recipe}: no parameter {', '.join(unknown)}; it has "
            f"{', '.join(sorted(defaults))}"
        )
    return {**defaults, **parameters}


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
        sample, nonfinite = load_sample(files)
        applied = recipe.apply(params, sample)
        yield Processed(files, applied, nonfinite, sample.rgb.shape[:2])


def record_fields(
    recipe: Recipe, params: Mapping[str, Any], with_xyz: bool
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns the shape and dtype of each field of the recipe's records, by name."""
    image, mask = sizes(params)
    fields = {"rgb": ((*image, 3), "uint8"), "mask": ((*mask, 1), "bool")}
    if with_xyz:
        fields["xyz"] = ((*image, 3), "float32")
        fields["depth"] = ((*image, 1), "float32")
        fields["valid"] = fields["foreground"] = ((*image, 1), "bool")
        fields.update(recipe.extras(params))
    return fields
