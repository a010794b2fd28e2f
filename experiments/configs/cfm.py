"""CFM (arXiv 2312.04521): `cfm.py[:variant]`, variants joined by '+'.

    python -m experiments.main --config=cfm:resnet18_fpfh \
        --config.data.root=FOLDER --config.data.category=cable_gland \
        --config.weights.backbone=timm/resnet18.tv_in1k
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

RESNET18_FPFH = {
    "model.backbone": "resnet18",
    "model.layers": ("layer2", "layer3"),
    "model.source": "tv_in1k",
    "model.points": "fpfh",
}
VARIANTS = {
    # Mappings with five hidden layers more instead of one.
    "deep": {"model.depth": 5},
    # How the two distances are joined.
    **{name: {"model.aggregation": name} for name in ("sum", "max", "min")},
    "rgb_only": {"model.aggregation": "rgb"},
    "points_only": {"model.aggregation": "points"},
    # The background stays.
    "raw": {"data.recipe": "raw"},
    # Light features, ours.
    "resnet18_fpfh": RESNET18_FPFH,
    # Minutes on two cores.
    "cpu": {
        **RESNET18_FPFH,
        "model.epochs": 10,
        "data.image_size": 128,
    },
    # Seconds, for tests.
    "tiny": {
        **TINY,
        **RESNET18_FPFH,
        "model.layers": ("layer1", "layer2"),
        "model.epochs": 20,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("cfm", recipe="plane")
    config.data.image_size = 224
    config.data.batch_size = 4
    config.data.recipe_parameters.interpolation = "bicubic"
    config.fit.max_grad_norm = None  # the release bounds nothing
    config = apply_variants(config, variant, VARIANTS)
    if config.data.recipe == "plane":
        config.data.recipe_parameters.colour = "kept"
    return config
