"""TFDS builder of data in the MVTec 3D-AD layout, preprocessed by a recipe.

MVTec 3D-AD (Bergmann et al., VISAPP 2022, CC BY-NC-SA 4.0) has to be downloaded by
hand, after registration, from mvtec.com/company/research/datasets/mvtec-3d-ad.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import layout
from data_pipelines.arrangements import MVTEC_3D, SPLITS
from data_pipelines.errors import DatasetError
from data_pipelines.pairing import GOOD, SampleFiles
from data_pipelines.recipes import RECIPES
from data_pipelines.samples import (
    Processed,
    complete_parameters,
    file_digests,
    fit_recipe,
    records,
    sample_ids,
)

CATEGORIES = (
    "bagel",
    "cable_gland",
    "carrot",
    "cookie",
    "dowel",
    "foam",
    "peach",
    "potato",
    "rope",
    "tire",
)


@dataclasses.dataclass(eq=False)
class Mvtec3dConfig(tfds.core.BuilderConfig):
    """Which class, and how it is preprocessed."""

    category: str = ""  # "" = the name of the configuration
    recipe: str = "ast"
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    measured: frozenset[str] = frozenset(("rgb", "xyz"))
    # What the recipe learned, the samples and their ids, where all are known already.
    params: dict[str, Any] | None = dataclasses.field(default=None, repr=False)
    samples: tuple[SampleFiles, ...] = dataclasses.field(default=(), repr=False)
    ids: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False)
    # Told of each record that is written.
    note: Callable[[Processed], None] | None = dataclasses.field(
        default=None, repr=False
    )


class Mvtec3d(tfds.core.GeneratorBasedBuilder):
    """RGB-D samples of one class; splits train, validation and test, in order."""

    LAYOUT = MVTEC_3D
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir is the folder that holds the classes. " + layout.EXPECTED
    )
    # Nothing is downloaded, so there are no checksums beside this file to look for; the
    # search for them in TFDS 4.9.10 imports a package that it does not install.
    code_path = None
    BUILDER_CONFIGS = [Mvtec3dConfig(name=name) for name in CATEGORIES]

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        recipe = RECIPES[config.recipe]
        params = config.params
        if params is None:
            params = complete_parameters(config.recipe, config.parameters)
        fields = recipe.fields(params, config.measured)
        features = {
            name: tfds.features.Tensor(
                shape=shape, dtype=np.dtype(dtype), encoding="bytes"
            )
            for name, (shape, dtype) in fields.items()
        }
        text = {name: tfds.features.Text() for name in ("split", "defect", "stem")}
        scalars = {name: tfds.features.Scalar(np.int32) for name in ("id", "label")}
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({**features, **text, **scalars}),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                recipe=config.recipe, parameters=json.dumps(params)
            ),
        )

    def _split_generators(self, dl_manager):
        config = self.builder_config
        params, samples, ids = config.params, config.samples, config.ids
        if params is None:
            category = config.category or config.name
            found = layout.scan(dl_manager.manual_dir, category, self.LAYOUT)
            faults = [fault for fault in found.faults if not fault.warning]
            if faults:
                raise DatasetError("; ".join(fault.message for fault in faults))
            samples = found.samples
            parameters = complete_parameters(config.recipe, config.parameters)
            recipe = RECIPES[config.recipe]
            params = fit_recipe(recipe, parameters, found.split("train"))
            ids = sample_ids(file_digests(samples))
        splits = {
            split: [files for files in samples if files.split == split]
            for split in SPLITS
        }
        return {
            split: self._generate_examples(files, params, ids)
            for split, files in splits.items()
            if files
        }

    def _generate_examples(self, samples, params, ids):
        config = self.builder_config
        for processed in records(RECIPES[config.recipe], params, samples):
            if config.note is not None:
                config.note(processed)
            files = processed.files
            yield (
                _bytes(files.key),
                {
                    **processed.applied.record,
                    "split": files.split,
                    "defect": _bytes(files.defect),
                    "stem": _bytes(files.stem),
                    "id": ids[files.key],
                    "label": int(files.defect != GOOD),
                },
            )


def _bytes(name: str) -> bytes:
    """Returns a name as the file system has it, which may be no UTF-8."""
    return name.encode("utf-8", "surrogateescape")
