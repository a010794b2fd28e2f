"""CFM (arXiv 2312.04521): `cfm.py[:variant]`, variants joined by '+' (`s+deep`).

    python -m experiments.main --config=cfm \
        --config.data.root=FOLDER --config.data.category=cable_gland \
        --config.weights.backbone=timm/vit_base_patch8_224.dino \
        --config.weights.points=FILE

Point-MAE's file is the published `pretrain.pth` through `experiments.convert_torch`.
`resnet18_fpfh` needs `--config.weights.backbone=timm/resnet18.tv_in1k` alone.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

RESNET18_FPFH = {
    "model.backbone": "resnet18",
    "model.layers": ("layer2", "layer3"),
    "model.source": "tv_in1k",
    "model.points": "fpfh",
}


def pruned(image: str, *points: str) -> dict:
    """Returns a variant that ends at earlier blocks of both transformers."""
    return {"model.layers": (image,), "model.point_layers": points}


VARIANTS = {
    # The first 8, 4 and 1 blocks of both transformers: M, S and T of the paper.
    "m": pruned("norm8", "block2", "block5", "block8"),
    "s": pruned("norm4", "block2", "block3", "block4"),
    "t": pruned("norm1", "block1"),
    # The larger pair of mappings: five hidden layers after the first one.
    "deep": {"model.depth": 5},
    # The point network's batch norms as in the release, with the cloud's statistics.
    "batch_statistics": {"model.statistics": "batch"},
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
        "model.epochs": 5,
        "model.smoothing": (3, 3, 3, 3, 3, 5, 5),
        "data.image_size": 128,
    },
    # Seconds, for tests.
    "tiny": {
        **TINY,
        **RESNET18_FPFH,
        "model.layers": ("layer1", "layer2"),
        "model.epochs": 20,
        "model.smoothing": (3, 3),
        "model.rows": 16,
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
