"""DRAEM (arXiv 2108.07610): `draem.py[:variant]`, joined by '+' (`cpu+opaque`).

    python -m experiments.main --config=draem \
        --config.data.root=FOLDER --config.data.category=cable_gland \
        --config.weights.textures=FOLDER_OF_TEXTURES

The default is the published code: RGB at 256 pixels, 700 epochs. Published mean over
the ten classes of MVTec 3D-AD, RGB alone, as DBRN's authors ran it: I-AUROC .876,
P-AUROC .954. Card: docs/systems/draem.md. `cpu` trains in minutes on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

DEPTH = {"data.recipe": "ast"}
VARIANTS = {
    # What the paper says where the code does something else.
    "paper": {
        "hyper.rotation": 45.0,
        "hyper.beta_max": 0.9,
        "hyper.decay": 0.1,
        "model.milestones": (4 / 7, 6 / 7),
    },
    # The paper's ablations.
    "reconstruction_only": {"model.networks": "reconstruction"},
    "discriminator_only": {"model.networks": "discriminator"},
    "colours": {"model.texture": "colours"},
    "opaque": {"hyper.beta_max": 0.0},
    "no_rotation": {"hyper.probability_rotation": 0.0},
    # Ours: depth beside colour.
    "rgb_depth": {**DEPTH, "model.modalities": ("rgb", "depth")},
    "depth": {**DEPTH, "model.modalities": ("depth",)},
    "mvtec_ad": {"data.name": "mvtec_ad"},
    # Minutes on two cores; the card gives the reason of each departure.
    "cpu": {
        "data.image_size": 64,
        "model.reconstruction_width": 16,
        "model.reconstruction_levels": 3,
        "model.discriminator_width": 16,
        "model.discriminator_levels": 4,
        "model.texture_size": 64,
        "model.schedule": "cosine",
        "model.score_window": 5,  # 21 pixels at 256
        "model.epochs": 80,
        "hyper.learning_rate": 2e-3,
        "hyper.probability_normal": 0.3,
        "hyper.beta_max": 1.0,
        "hyper.probability_rotation": 0.0,
        "fit.checkpoint_every": 400,
    },
    # Seconds, for tests.
    "tiny": {
        **TINY,
        "data.recipe": "ast",
        "model.modalities": ("rgb", "depth"),
        "model.reconstruction_width": 4,
        "model.reconstruction_levels": 1,
        "model.discriminator_width": 4,
        "model.discriminator_levels": 1,
        "model.textures": 4,
        "model.texture_size": 32,
        "model.schedule": "cosine",
        "model.epochs": 80,
        "model.score_window": 5,
        "hyper.learning_rate": 5e-3,
        "hyper.probability_rotation": 0.0,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("draem", recipe="raw")
    config.fit.max_grad_norm = None  # the published code clips nothing
    return apply_variants(config, variant, VARIANTS)
