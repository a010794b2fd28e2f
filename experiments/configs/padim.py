"""PaDiM (arXiv 2011.08785): `padim.py[:variant]`, variants joined by '+' (`cpu+depth`).

    python -m experiments.main --config=padim \
        --config.weights.backbone=FILE --config.data.root=FOLDER \
        --config.data.category=cable_gland

Card: docs/systems/padim.md. `cpu` takes minutes on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

RESNET18 = {"model.backbone": "resnet18", "model.dimensions": 100}

VARIANTS = {
    # Backbones with the channels that the paper keeps of each.
    "wide_resnet50": {"model.backbone": "wide_resnet50", "model.dimensions": 550},
    "resnet50": {"model.backbone": "resnet50", "model.dimensions": 550},
    "resnet18": RESNET18,
    # anomalib draws the channels by torch's generator; ours are the reference's.
    "anomalib": {
        **RESNET18,
        "model.epsilon": 0.01 + 1e-5,
        "model.border": "mirror",
        "model.source": "",
        "data.image_size": 256,
        "data.recipe_parameters.interpolation": "bilinear",
    },
    # What is looked at; depth is ours.
    "rgb": {"model.modalities": ("rgb",)},
    "depth": {"model.modalities": ("depth",)},
    "rgb_depth": {"model.modalities": ("rgb", "depth")},
    # The reference's images of MVTec AD: 256 pixels, of which the central 224 count.
    "mvtec_ad": {
        "data.name": "mvtec_ad",
        "data.recipe_parameters.resize_size": 256,
    },
    # Minutes on two cores.
    "cpu": {**RESNET18, "model.sigma": 128 / 224 * 4, "data.image_size": 128},
    # Seconds, for tests.
    "tiny": {
        **TINY,
        "data.recipe": "ast",
        "model.modalities": ("rgb", "depth"),
        "model.backbone": "resnet18",
        "model.layers": ("layer1",),
        "model.dimensions": 32,
        "model.sigma": 1.0,
        "model.block_bytes": 2**16,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("padim", recipe="raw")
    config.data.image_size = 224
    config.data.recipe_parameters.interpolation = "lanczos"
    return apply_variants(config, variant, VARIANTS)
