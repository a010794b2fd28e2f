"""Fields that every experiment has, with their defaults."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ad3d_jax.systems import entry_of

# What the variants `tiny` share; they fit in seconds, for tests.
TINY = {
    "data.image_size": 32,
    "data.batch_size": 4,
    "data.sample_set.train": 6,
    "data.sample_set.validation": 1,
    "data.sample_set.test_good": 3,
    "data.sample_set.test_per_defect": 1,
    "eval.batch_size": 4,
}


def base_config(system: str, recipe: str = "raw") -> ConfigDict:
    """Returns the configuration of a system with its defaults, all fields typed.

    Args:
        system: a name of `ad3d_jax.systems.SYSTEMS`, or `module:NAME` of one outside.
        recipe: a name of `data_pipelines.recipes.RECIPES`.
    """
    entry = entry_of(system)
    built = entry.factory(entry.config())
    parts = {row.name: "" for row in built.pretrained}
    made = {phase.pretrained for phase in built.phases} & parts.keys()
    config = ConfigDict(
        {
            "system": system,
            "variant": "default",
            "seed": 0,
            # Structure; a change compiles anew.
            "model": dataclasses.asdict(entry.config()),
            # Numbers that a sweep may change without compiling.
            "hyper": dict(entry.hyper),
            "data": {
                "name": "mvtec_3d",  # of the root: mvtec_3d | mvtec_ad | plain
                "root": "",  # folder of classes; "" = the generated sample set
                "category": "",  # "" = the first category of the sample set
                "recipe": recipe,
                "image_size": 256,  # pixels, both sides
                "mask_size": None,  # of maps and masks in metrics; None = image_size
                "recipe_parameters": {},  # other parameters of the recipe
                "batch_size": 8,
                "reader": "stream",  # stream (tf.data) | resident (in memory)
                "on_missing": "error",  # error | skip
                "cache": "runs/cache",  # preprocessed data and the sample set
                "sample_set": {
                    "train": 80,
                    "validation": 10,
                    "test_good": 20,
                    "test_per_defect": 8,
                    "seed": 1,
                },
            },
            # A file, a folder, "shipped:NAME" or a name on the hub, such as
            # timm/resnet18.tv_in1k, for each pretrained part; "" = none.
            "weights": parts,
            # Files that phases write what they have made to; "" = none.
            "save_weights": dict.fromkeys(sorted(made), ""),
            "fit": {
                "engine": "pmap",  # pmap | shard_map | jit
                "max_grad_norm": 1.0,
                "checkpoint_every": 500,  # steps
                "keep": 2,  # checkpoints
                "log_every": 20,  # steps
                "patience": 20,  # steps without a finite loss before the run stops
                "tensorboard": False,
                "device_memory_bytes": None,  # of one device; None = as measured
                "host_memory_bytes": None,  # None = as measured
            },
            # Good samples that no fit sees; their scores give p-values and thresholds.
            "calibration": {
                "source": "auto",  # auto | validation | held_out | folds | none
                "share": 0.2,  # of train, that held_out keeps from the fit
                "folds": 5,  # parts of train, each scored by a fit without it
                "seed": 0,  # of the choice of samples
            },
            "eval": {
                "alpha": 0.05,  # share of good parts that may be called defective
                "batch_size": 8,
                "images_per_defect": 2,  # best and worst samples shown in the report
            },
        }
    )
    if any(phase.source == "images" for phase in built.phases):
        config.data.images = ""  # folder of natural images; "" = procedural ones
        config.data.procedural_images = 2048
    return config


def apply_variants(
    config: ConfigDict, variant: str, variants: Mapping[str, Mapping[str, Any]]
) -> ConfigDict:
    """Applies the named rows in order; names are joined by '+', as in `cpu+rgb`.

    Args:
        config: what `base_config` returned.
        variant: names joined by '+', or "" for the default.
        variants: name -> {dotted field: value}.

    Raises:
        ValueError: a name is unknown; the message lists the known ones.
    """
    for name in filter(None, variant.split("+")):
        if name not in variants:
            raise ValueError(
                f"variant {name!r} of {config.system} is unknown; known: "
                f"{', '.join(sorted(variants))}"
            )
        config.update_from_flattened_dict(variants[name])
    config.variant = variant or "default"
    return config
