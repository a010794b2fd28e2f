"""Shape-Guided (ICML 2023): `shape_guided.py[:variant]`, variants joined by '+'.

    python -m experiments.main --config=shape_guided --phases=distances \
        --config.data.root=FOLDER --config.data.category=bagel \
        --config.save_weights.distances=distances.safetensors
    python -m experiments.main --config=shape_guided \
        --config.data.root=FOLDER --config.data.category=cable_gland \
        --config.weights.distances=distances.safetensors \
        --config.weights.backbone=timm/wide_resnet50_2.racm_in1k

The first command trains the network of signed distances on all classes of the root,
once; the second does the class. Published means over the ten classes of MVTec 3D-AD,
I-AUROC / AUPRO@0.3: both memories, the default, .947 / .976; `rgb` .815 / .933; `sdf`
.916 / .931. `cpu` takes minutes on two cores. Card: docs/systems/shape_guided.md.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

VARIANTS = {
    # The rows of the repository's tables: both memories, or what one of them says.
    "fused": {"model.result": "fused"},
    "rgb": {"model.result": "rgb"},
    "sdf": {"model.result": "sdf"},
    # Backbones; the release has the first, so that others may come from anywhere.
    "wide_resnet50": {"model.backbone": "wide_resnet50"},
    "resnet18": {"model.backbone": "resnet18", "model.source": ""},
    # Minutes on two cores.
    "cpu": {
        "model.backbone": "resnet18",
        "model.source": "",
        "model.encoder_widths": (32, 64, 256),
        "model.encoder_hidden": 128,
        "model.code": 64,
        "model.decoder_width": 128,
        "model.decoder_depth": 3,
        "model.cells": 16,
        "model.distance_steps": 1500,
        "model.blur_radius": 128 / 224 * 4,
        "hyper.learning_rate": 1e-3,
        "data.image_size": 128,
        "data.recipe_parameters.patch_points": 128,
        "data.recipe_parameters.patch_overlap": 4,
        "data.recipe_parameters.patch_limit": 512,
    },
    # Seconds, for tests.
    "tiny": {
        **TINY,
        "data.recipe": "raw",
        "data.recipe_parameters.patch_points": 24,
        "data.recipe_parameters.patch_overlap": 2,
        "data.recipe_parameters.patch_limit": 96,
        "model.backbone": "resnet18",
        "model.source": "",
        # Maps that are as fine as the cells, as they are at 224 pixels.
        "model.layers": ("conv1", "layer1"),
        "model.encoder_widths": (16, 16, 32),
        "model.encoder_hidden": 32,
        "model.code": 16,
        "model.decoder_width": 32,
        "model.decoder_depth": 2,
        "model.patches_per_cloud": 8,
        "model.patches_at_a_time": 16,
        "model.distance_steps": 60,
        "model.aligned": 3,
        "model.cells": 8,
        "model.blur_radius": 1.0,
        "model.chunk_bytes": 2**16,
        "hyper.learning_rate": 2e-3,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("shape_guided", recipe="plane")
    config.data.image_size = 224
    config.data.recipe_parameters.interpolation = "bicubic"
    config.fit.max_grad_norm = None  # the release clips nothing
    return apply_variants(config, variant, VARIANTS)
