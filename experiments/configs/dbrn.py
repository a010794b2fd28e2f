"""DBRN (arXiv 2311.06797): `dbrn.py[:variant]`, variants joined by '+' (`cpu+rgb`).

    python -m experiments.main --config=dbrn \
        --config.data.root=FOLDER --config.data.category=cable_gland

The rows of the paper's tables are variants (card: docs/systems/dbrn.md). Published
means over the ten classes of MVTec 3D-AD, I-AUROC / P-AUROC: single scale .921 / .980,
multi-scale .928 / .983. `cpu` trains in minutes on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

# Light setting: minutes on two cores. The card gives the reason of each departure.
CPU = {
    "data.image_size": 64,
    "model.reconstruction": "res_unet",
    "model.reconstruction_width": 16,
    "model.residual_unit": "norm_first",
    "model.discriminator_width": 16,
    "model.scales": 1,
    "model.skip_dropout": (1.0, 1.0, 1.0, 0.6),  # the three shallow skips are left out
    "model.texture_size": 64,
    "model.schedule": "cosine",
    "model.passes": 4,  # maps that are averaged; dropout stays on at test time
    "model.score_window": 5,  # 21 pixels at 256
    "model.steps": 1300,
    "hyper.learning_rate_reconstruction": 2e-3,
    "hyper.learning_rate_discriminator": 2e-3,
    "hyper.learning_rate_importance": 1e-3,
    "hyper.probability_normal": 0.3,
    "hyper.probability_cut_out": 0.1,
    "hyper.probability_single": 0.5,
    "hyper.beta_max": 1.0,
    "fit.checkpoint_every": 200,
}

SINGLE_SCALE = {"model.scales": 1}

VARIANTS = {
    # Modalities (Tables I and II; `depth` is ours).
    "rgb": {"model.modalities": ("rgb",)},
    "depth": {"model.modalities": ("depth",)},
    # Scales: the paper's "Ours" and "Ours (MS)"; MS is the default.
    "single_scale": SINGLE_SCALE,
    # The other tables have one scale; `single_scale` is a row of each.
    # Tables III and VI, reconstruction + discriminator: Swin + U-Net.
    "res_unet": {**SINGLE_SCALE, "model.reconstruction": "res_unet"},
    "swin": {**SINGLE_SCALE, "model.discriminator": "swin"},
    # Table IV, loss weights: both.
    "lambda_none": {**SINGLE_SCALE, "model.lambda_f": False, "model.lambda_m": False},
    "lambda_f": {**SINGLE_SCALE, "model.lambda_m": False},
    "lambda_m": {**SINGLE_SCALE, "model.lambda_f": False},
    # Table V, fusion: the importance scoring module.
    "early_fusion": {**SINGLE_SCALE, "model.fusion": "early"},
    "hadamard": {**SINGLE_SCALE, "model.fusion": "hadamard"},
    "concat": {**SINGLE_SCALE, "model.fusion": "concat"},
    # The other reading of importance scoring: two scores of each channel.
    "channel_scores": {"model.importance": "channel"},
    # The public Swin-Unet's size.
    "224": {"data.image_size": 224, "model.window": 7, "model.texture_size": 224},
    "cpu": CPU,
    "cpu_swin": {
        **CPU,
        "model.reconstruction": "swin",
        "model.embed": 32,
        "model.skip_dropout": (0.6, 0.4, 0.2),
        "hyper.learning_rate_reconstruction": 1e-3,
        "hyper.learning_rate_discriminator": 1e-3,
        "hyper.learning_rate_importance": 3e-3,
    },
    # Seconds, for tests.
    "tiny": {
        **TINY,
        "model.reconstruction": "res_unet",
        "model.reconstruction_width": 8,
        "model.residual_unit": "norm_first",
        "model.reconstruction_levels": 2,
        "model.discriminator_width": 8,
        "model.discriminator_levels": 2,
        "model.scales": 1,
        "model.textures": 4,
        "model.texture_size": 32,
        "model.schedule": "cosine",
        "model.steps": 120,
        "model.score_window": 5,
        "hyper.learning_rate_reconstruction": 5e-3,
        "hyper.learning_rate_discriminator": 5e-3,
        "hyper.learning_rate_importance": 5e-3,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    return apply_variants(base_config("dbrn", recipe="ast"), variant, VARIANTS)
