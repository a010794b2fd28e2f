"""M3DM (arXiv 2303.00601): `m3dm.py[:variant]`, variants joined by '+'.

    python -m experiments.main --config=m3dm --phases=uff \
        --config.data.root=FOLDER --config.save_weights.uff=uff.safetensors
    python -m experiments.main --config=m3dm \
        --config.data.root=FOLDER --config.data.category=cable_gland \
        --config.weights.backbone=timm/vit_base_patch8_224.dino \
        --config.weights.points=pointmae_pretrain.safetensors \
        --config.weights.uff=uff.safetensors

The default is the release's "DINO+Point_MAE+Fusion" with its constants, the networks in
inference mode. Published means over the ten classes of MVTec 3D-AD, I-AUROC / P-AUROC /
AUPRO: .945 / .992 / .964. Card:
docs/systems/m3dm.md.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

# What the release calls a method of a single bank, or of two, and what it then does.
VARIANTS = {
    "points": {
        "model.banks": ("points",),
        "model.decision": "sum",
        "model.normalise": "none",
        "model.zero_row": False,
        "model.epsilon": 1e-5,
    },
    "rgb": {
        "model.banks": ("rgb",),
        "model.decision": "sum",
        "model.normalise": "own",
        "model.zero_row": False,
        "model.epsilon": 1e-5,
        "hyper.lambda_rgb": 1.0,
    },
    "fused": {
        "model.banks": ("fused",),
        "model.decision": "sum",
        "model.normalise": "none",
        "model.zero_row": False,
    },
    "two": {
        "model.banks": ("points", "rgb"),
        "model.zero_row": False,
        "model.divisor": 1000.0,
    },
    "add": {
        "model.banks": ("points", "rgb"),
        "model.decision": "sum",
        "model.zero_row": False,
        "hyper.lambda_rgb": 1.0,
    },
    # As the paper describes it, where the release differs.
    "intended": {"model.normalise": "own", "model.sizes": "own"},
    # The fusion, trained on pairs that belong together.
    "aligned": {"model.uff_pairing": "aligned"},
    # All three epochs of the release; its default takes the network after the first.
    "three_epochs": {"model.uff_epochs": 3, "model.uff_warm_up": 1 / 3},
    # The paper's schedule.
    "uff_paper": {
        "model.uff_steps": 750,
        "model.uff_accumulate": 1,
        "model.uff_warm_up": 1 / 3,
    },
    # Networks.
    "vit_in1k": {"model.source": "augreg_in21k_ft_in1k"},
    "vit_in21k": {"model.source": "augreg_in21k"},
    "vit_small": {"model.backbone": "vit_small_patch8_224"},
    "point_bert": {"model.point_network": "point_bert"},
    "batch_statistics": {"model.point_statistics": "batch"},
    # An exact choice of rows instead of the release's; many times faster on a CPU.
    "float32": {"model.precision": "float32"},
    # Seconds, for tests.
    "tiny": {
        **TINY,
        "model.backbone": "resnet18",
        "model.layers": ("layer2",),
        "model.source": "",
        "model.point_layers": ("block1",),
        "model.groups": 16,
        "model.group_size": 8,
        "model.cells": 8,
        "model.fraction": 0.25,  # of the image then 0.25, too: else its bank has all
        "model.projection": "none",
        "model.precision": "float32",
        "model.blur_radius": 1.0,
        "model.chunk_bytes": 2**16,
        "model.uff_steps": 2,
        "model.uff_batch_size": 4,
        "model.uff_accumulate": 1,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("m3dm", recipe="plane")
    config.data.image_size = 224
    config.data.recipe_parameters.interpolation = "bicubic"
    config.data.batch_size = config.eval.batch_size = 1
    config.fit.max_grad_norm = None  # the release clips nothing
    return apply_variants(config, variant, VARIANTS)
