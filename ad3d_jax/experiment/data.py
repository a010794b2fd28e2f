"""The data of a run: a class, preprocessed, and what else its phases read."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ad3d_jax.base import Batch, Phase, System
from ad3d_jax.experiment.state import key_of
from ad3d_jax.workdir.scores import Row
from data_pipelines import calibration, sources, synthetic
from data_pipelines.arrangements import MVTEC_3D
from data_pipelines.reader import Reader
from data_pipelines.recipes import RECIPES
from data_pipelines.samples import complete_parameters
from data_pipelines.sources import Data
from data_pipelines.unlabelled import collate, empty_record

IMAGES = "images"  # the source of natural images


def open_data(
    config: ConfigDict, system: System, learned: Mapping[str, Any] | None = None
) -> Data:
    """Returns the class that the configuration names, preprocessed if need be.

    The recipe makes the extras that the system needs; `learned` is what it has learned
    from the data that a state was fitted on, None where it is to learn from this class.

    Raises:
        ValueError: see `data_folder` and `sources.open_data`.
    """
    data = config.data
    whole = any(phase.source == "train_all" for phase in system.phases)
    root, category = data_folder(config, whole)
    return sources.open_data(
        root,
        category,
        data.recipe,
        name=data.name,
        image_size=data.image_size,
        mask_size=data.mask_size,
        parameters=data.recipe_parameters.to_dict(),
        extras=(*extras_of(system), *data.recipe_parameters.get("extras", ())),
        cache=Path(data.cache).expanduser(),
        reader=data.reader,
        on_missing=data.on_missing,
        learned=learned,
        points=needs_points(system),
        calibration=calibration.Settings(**config.calibration.to_dict()),
    )


def data_folder(config: ConfigDict, whole: bool = False) -> tuple[Path, str]:
    """Returns (root, category); makes the sample set where `data.root` is empty.

    Of several processes the first makes it and the others wait.

    Args:
        config: of the run.
        whole: whether all classes are read.

    Raises:
        ValueError: a root is given without a category, or the category is unknown.
    """
    data, category = config.data, category_of(config)
    if data.root:
        return Path(data.root).expanduser(), category
    counts, size = data.sample_set.to_dict(), data.image_size
    return sources.sample_set(data.cache, category, size, counts, whole), category


def category_of(config: ConfigDict) -> str:
    """Returns the class, the first of the sample set where none is named.

    Raises:
        ValueError: a root is given without a category, or the sample set cannot stand
            for it.
    """
    data = config.data
    if data.root:
        if not data.category:
            raise ValueError("data.category: name one of the folders of data.root")
        return data.category
    if data.name != MVTEC_3D:
        raise ValueError(
            f"data.name={data.name} needs data.root: the sample set that is made where "
            f"it is empty has the layout {MVTEC_3D}"
        )
    category = data.category or synthetic.CATEGORIES[0]
    if category not in synthetic.CATEGORIES:
        raise ValueError(
            f"data.category: the sample set has no {category!r}; it has "
            f"{', '.join(synthetic.CATEGORIES)}"
        )
    return category


def mask_size(config: ConfigDict) -> int | tuple[int, int]:
    """Returns the side of maps and masks in metrics, pixels, or rows and columns."""
    size = {**config.data, **config.data.recipe_parameters}
    return size["image_size"] if size["mask_size"] is None else size["mask_size"]


def needs_points(system: System) -> bool:
    """Returns whether a system needs more of a sample than its image."""
    return not {*system.needs_fit, *system.needs_score} <= {"rgb"}


def extras_of(system: System) -> tuple[str, ...]:
    """Returns the names of the extras that a system needs."""
    needs = (*system.needs_fit, *system.needs_score)
    names = {n.removeprefix("extras.") for n in needs if n.startswith("extras.")}
    return tuple(sorted(names))


def calibration_names(data: Data) -> tuple[str, ...]:
    """Returns "defect/stem" of the samples that calibrate, in their order."""
    rows = data.prepared.rows(data.calibration.split)
    chosen = (rows[i] for i in data.calibration.numbers(data.prepared))
    return tuple(f"{row['defect']}/{row['stem']}" for row in chosen)


def example(config: ConfigDict, system: System) -> Batch:
    """Returns a batch of one row of zeros, for its shapes, before any data is read.

    Raises:
        ValueError: there is no such recipe or parameter.
    """
    data = config.data
    own = data.recipe_parameters.to_dict()
    known = RECIPES[data.recipe].defaults if data.recipe in RECIPES else {}
    sized = {"image_size": data.image_size} if "image_size" in known else {}
    extras = (*extras_of(system), *own.get("extras", ()))
    parameters = {**sized, **own, "extras": extras}
    params = complete_parameters(data.recipe, parameters)
    needs = (*system.needs_fit, *system.needs_score)
    return collate([empty_record(data.recipe, params, needs)], 1)


def with_sources(
    config: ConfigDict, phases: tuple[Phase, ...], samples: Reader
) -> Reader:
    """Returns the reader of a class joined with what else its phases read."""
    if not any(phase.source == IMAGES for phase in phases):
        return samples
    data, key = config.data, key_of(config, IMAGES)
    wanted = sources.Images(key, data.images, data.procedural_images, data.image_size)
    return samples.joined({IMAGES: partial(sources.natural_images, wanted)})


def rows_of(manifest: Mapping[str, Any], split: str) -> list[Row]:
    """Returns the samples of a split in the manifest's order."""
    return [
        Row(manifest["category"], s["defect"], s["stem"], s["id"], s["label"])
        for s in manifest["samples"]
        if s["split"] == split
    ]
