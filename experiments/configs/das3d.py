"""DAS3D (arXiv 2410.09821): `das3d.py[:variant]`, variants joined by '+'.

    python -m experiments.main --config=das3d \
        --config.data.root=FOLDER --config.data.category=cable_gland

The recipe rests on the paper's abstract and on summaries (card: docs/systems/das3d.md).
Published mean over the ten classes of MVTec 3D-AD: I-AUROC .982, P-AUROC .993. `cpu`
trains in minutes on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

# Light setting: minutes on two cores. The card gives the reason of each departure.
CPU = {
    "data.image_size": 64,
    "data.recipe": "ast",
    "model.geometry": "height",
    "model.reconstruction": "auto_encoder",
    "model.reconstruction_width": 16,
    "model.reconstruction_levels": 3,
    "model.discriminator_width": 16,
    "model.sigma": (0.5, 2.5),
    "model.texture_size": 64,
    "model.schedule": "cosine",
    "model.epochs": 150,
    "model.score_window": 5,  # 21 pixels at 256
    "hyper.learning_rate": 2e-3,
    "hyper.probability_normal": 0.3,
    "hyper.dropout_rgb": 0.4,
    "hyper.dropout_depth": 0.4,
    "hyper.beta_max": 1.0,
    "hyper.amplitude_low": 0.02,
    "hyper.amplitude_high": 0.2,
    "fit.checkpoint_every": 200,
}


def dropout(probability: float) -> dict[str, float]:
    """Returns the row of an augmentation dropout, the same for both modalities."""
    return {"hyper.dropout_rgb": probability, "hyper.dropout_depth": probability}


VARIANTS = {
    # Augmentation dropout; the default is 0.3.
    "dropout_0": dropout(0.0),
    "dropout_01": dropout(0.1),
    "dropout_05": dropout(0.5),
    # Colour anomalies on the displaced pixels alone.
    "correlated": {"hyper.probability_united": 0.0, "hyper.probability_apart": 0.0},
    # Reconstruction by DRAEM's network, without skips.
    "auto_encoder": {
        "model.reconstruction": "auto_encoder",
        "model.reconstruction_width": 128,
        "model.reconstruction_levels": 4,
    },
    # Height over the table with limits of the class, in place of depth in the image's.
    "ast": {"data.recipe": "ast", "model.geometry": "height"},
    "cpu": CPU,
    # Seconds, for tests.
    "tiny": {
        **TINY,
        "model.reconstruction": "auto_encoder",
        "model.reconstruction_width": 4,
        "model.reconstruction_levels": 1,
        "model.discriminator_width": 4,
        "model.discriminator_levels": 1,
        "model.sigma": (0.5, 1.5),
        "model.textures": 4,
        "model.texture_size": 32,
        "model.schedule": "cosine",
        "model.epochs": 60,
        "model.score_window": 5,
        "hyper.learning_rate": 3e-3,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    return apply_variants(base_config("das3d", recipe="dsr"), variant, VARIANTS)
