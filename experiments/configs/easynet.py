"""EasyNet (arXiv 2307.13925): `easynet.py[:variant]`, variants joined by '+'.

    python -m experiments.main --config=easynet \
        --config.data.root=FOLDER --config.data.category=bagel

The default is the paper's best: two levels, joint training, gate. Published I-AUROC,
mean over the ten classes of MVTec 3D-AD: .926. `cpu` trains in minutes on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

VARIANTS = {
    "rgb": {"model.mode": "rgb"},
    "depth": {"model.mode": "depth"},
    "rgbd": {"model.mode": "rgbd"},
    "fusion2": {"model.mode": "fusion2"},
    "1layer": {"model.layers": 1},
    "3layer": {"model.layers": 3},
    "gate_close": {"model.gate": "close"},
    "gate_open": {"model.gate": "open"},
    # Habits of the release that change results; its thresholds are in the card.
    "release": {
        "model.threshold": "given",
        "model.depth_range": "all_pixels",
        "model.depth_8bit": True,
        "model.bgr": True,
        "data.recipe_parameters.interpolation": "linear",
        "data.recipe_parameters.depth_interpolation": "linear",
    },
    # Light setting: minutes on two cores. The card gives the reason of each departure.
    "cpu": {
        "data.image_size": 64,
        "data.batch_size": 8,
        "data.recipe": "ast",
        "model.width": 16,
        "model.halvings": 3,
        "model.mlp_width": 32,
        "model.depth_channels": 1,
        "model.depth_texture": "grey",
        "model.texture_size": 64,
        "model.schedule": "cosine",
        "model.epochs": 150,
        "model.score_window": 5,  # 21 pixels at 256
        "hyper.learning_rate": 5e-3,
        "hyper.probability_normal": 0.3,
        "hyper.probability_single": 0.5,
        "hyper.beta_max": 1.0,
        "fit.checkpoint_every": 200,
    },
    # Seconds, for tests.
    "tiny": {
        **TINY,
        "data.recipe": "ast",
        "model.width": 8,
        "model.halvings": 2,
        "model.mlp_width": 16,
        "model.textures": 4,
        "model.texture_size": 32,
        "model.schedule": "cosine",
        "model.epochs": 80,
        "model.score_window": 5,
        "hyper.learning_rate": 5e-3,
        "hyper.probability_normal": 0.3,
        "hyper.probability_single": 0.5,
        "hyper.beta_max": 1.0,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("easynet", recipe="plane")
    config.data.batch_size = 4
    config.fit.max_grad_norm = None  # the release clips nothing
    return apply_variants(config, variant, VARIANTS)
