"""Fields that every experiment has, with their defaults."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from ad3d_jax.systems import SYSTEMS


def base_config(system: str, recipe: str) -> ConfigDict:
    """Returns the configuration of a system with its defaults, all fields typed.

    Args:
        system: a name of `ad3d_jax.systems.SYSTEMS`.
        recipe: a name of `data_pipelines.recipes.RECIPES`.
    """
    entry = SYSTEMS[system]
    return ConfigDict(
        {
            "system": system,
            "variant": "default",
            "seed": 0,
            # Structure; a change compiles anew.
            "model": dataclasses.asdict(entry.config()),
            # Numbers that a sweep may change without compiling.
            "hyper": dict(entry.hyper),
            "data": {
                "name": "mvtec_3d",  # layout of the root: mvtec_3d | mvtec_ad
                "root": "",  # folder of classes; "" = the generated sample set
                "category": "",  # "" = the first category of the sample set
                "recipe": recipe,
                "image_size": 256,  # pixels, both sides
                "mask_size": 0,  # side of maps and masks in metrics; 0 = image_size
                "recipe_parameters": {},  # other parameters of the recipe
                "batch_size": 8,
                "reader": "stream",  # stream (tf.data) | resident (in memory)
                "on_missing": "error",  # error | skip
                "textures": "",  # folder of pictures; "" = procedural textures
                "cache": "runs/cache",  # preprocessed data and the sample set
                "sample_set": {
                    "train": 80,
                    "validation": 10,
                    "test_good": 20,
                    "test_per_defect": 8,
                    "seed": 1,
                },
            },
            "fit": {
                "engine": "pmap",  # pmap | shard_map | jit
                "max_grad_norm": 1.0,
                "checkpoint_every": 500,  # steps
                "keep": 2,  # checkpoints
                "log_every": 20,  # steps
                "patience": 20,  # steps without a finite loss before the run stops
                "tensorboard": False,
                "device_memory_bytes": 0,  # of one device; 0 = as measured
                "host_memory_bytes": 0,  # 0 = as measured
            },
            "eval": {
                "batch_size": 8,
                "pictures_per_defect": 2,  # best and worst samples shown in the report
            },
        }
    )


def with_backbone(config: ConfigDict, source: str) -> ConfigDict:
    """Returns the configuration with the fields of a pretrained image backbone.

    `backbone.name` and `model.backbone` are one value under two names.

    Args:
        config: of a system whose `Config` has the field `backbone`.
        source: weights that the paper used, one of `ad3d_jax.features.known.SOURCES`;
            others are refused, "" takes any.
    """
    name = FieldReference(config.model.backbone)
    config.model.backbone = name
    config.backbone = ConfigDict(
        {
            "name": name,
            "weights": "",  # safetensors or npz; "" = random weights
            "source": source,
        }
    )
    return config


def with_pretraining(config: ConfigDict, artifact: str) -> ConfigDict:
    """Returns the configuration with the fields of a pretraining on natural pictures.

    Args:
        config: of a system with a phase of source "pictures".
        artifact: name of what that phase makes.
    """
    config.data.pictures = ""  # folder of natural pictures; "" = procedural ones
    config.data.procedural_pictures = 2048
    # Files that stand for the phase; "shipped:NAME" is one of experiments/pretrained.
    config.artifacts = ConfigDict({artifact: ""})
    config.save_artifacts = ConfigDict({artifact: ""})
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
