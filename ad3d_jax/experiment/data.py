"""The data of a run: a class, preprocessed, and what else its phases read."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from ad3d_jax.base import Dataset
from ad3d_jax.devices import processes
from ad3d_jax.experiment.config import config_hash
from ad3d_jax.experiment.state import key_of
from ad3d_jax.systems import nearest
from ad3d_jax.workdir.scores import Row
from data_pipelines import layout, pictures
from data_pipelines.prepared import MANIFEST, Prepared, open_prepared
from data_pipelines.preprocess import prepare


class Data(NamedTuple):
    """A class as it was prepared."""

    manifest: dict
    samples: Dataset

    def rows(self, split: str) -> list[Row]:
        """Returns the samples of a split in the manifest's order."""
        return samples_of(self.manifest, split)


def open_data(config: ConfigDict) -> Data:
    """Returns the data that the configuration names, prepared if need be."""
    prepared = prepare_class(config)
    return Data(prepared.manifest, open_samples(config, prepared))


def data_folder(config: ConfigDict) -> tuple[Path, str]:
    """Returns (root, category); makes the sample set where `data.root` is empty.

    Of several processes the first makes it and the others wait.

    Raises:
        ValueError: a root is given without a category, or the category is unknown.
    """
    data, category = config.data, category_of(config)
    if data.root:
        return Path(data.root).expanduser(), category
    from data_pipelines import synthetic

    numbers = data.sample_set.to_dict()
    tag = config_hash({**numbers, "size": data.image_size})
    root = Path(data.cache).expanduser() / f"sample-set-{tag}"
    if processes.is_first():
        size = data.image_size
        synthetic.generate(root, categories=(category,), size=size, **numbers)
    processes.wait()
    return root, category


def category_of(config: ConfigDict) -> str:
    """Returns the class, the first of the sample set where none is named.

    Raises:
        ValueError: see `data_folder`.
    """
    data = config.data
    if data.root:
        if not data.category:
            raise ValueError("data.category: name one of the folders of data.root")
        return data.category
    if data.name != layout.MVTEC_3D:
        raise ValueError(
            f"data.name={data.name} needs data.root: the sample set that is made where "
            f"it is empty has the layout {layout.MVTEC_3D}"
        )
    from data_pipelines import synthetic

    category = data.category or synthetic.CATEGORIES[0]
    if category not in synthetic.CATEGORIES:
        raise ValueError(
            f"data.category: the sample set has no {category!r}"
            f"{nearest(category, synthetic.CATEGORIES)}"
        )
    return category


def mask_size(config: ConfigDict) -> int:
    """Returns the side of maps and masks in metrics, pixels."""
    size = config.data.mask_size
    return config.data.image_size if size is None else size


def recipe_parameters(config: ConfigDict) -> dict:
    """Returns the parameters that the recipe is applied with."""
    return {
        "image_size": config.data.image_size,
        "mask_size": mask_size(config),
        **config.data.recipe_parameters.to_dict(),
    }


def prepare_class(config: ConfigDict) -> Prepared:
    """Returns the class that the configuration names, preprocessed if need be.

    Of several processes the first preprocesses it and the others wait.

    Raises:
        ValueError: see `data_folder` and `preprocess.prepare`.
    """
    root, category = data_folder(config)
    if not processes.is_first():
        folder = Path(processes.word_of_first(""))
        processes.wait_for(folder / MANIFEST)
        return open_prepared(folder)
    prepared = prepare(
        root,
        category,
        config.data.recipe,
        recipe_parameters(config),
        cache_dir=Path(config.data.cache).expanduser(),
        on_missing=config.data.on_missing,
        name=config.data.name,
    )
    processes.word_of_first(str(prepared.folder))
    processes.wait_for(prepared.folder)
    return prepared


def open_samples(config: ConfigDict, prepared: Prepared) -> Dataset:
    """Returns the reader of prepared data that `data.reader` names."""
    if config.data.reader == "resident":
        from data_pipelines.resident import load_resident

        return load_resident(prepared)
    if config.data.reader != "stream":
        raise ValueError(
            f"data.reader: expected stream or resident, found {config.data.reader!r}"
        )
    from data_pipelines.stream import open_stream

    return open_stream(prepared)


def with_sources(config: ConfigDict, phases: tuple, samples: Dataset) -> Dataset:
    """Returns the reader of a class joined with what else its phases read."""
    if not any(phase.source == pictures.SPLIT for phase in phases):
        return samples
    data = config.data
    if data.pictures:
        found = pictures.read_pictures(data.pictures, data.image_size)
    else:
        key = key_of(config, "pictures")
        count = data.procedural_pictures
        found = pictures.make_pictures(key, count, data.image_size)
    return pictures.Joined(samples, found)


def samples_of(manifest: Mapping, split: str) -> list[Row]:
    """Returns the samples of a split in the manifest's order."""
    return [
        Row(manifest["category"], s["defect"], s["stem"], s["id"], s["label"])
        for s in manifest["samples"]
        if s["split"] == split
    ]
