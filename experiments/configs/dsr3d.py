"""3DSR (arXiv 2311.01117): `dsr3d.py[:variant]`, variants joined by '+'.

    python -m experiments.main --config=dsr3d:pretrain --phases=dada \
        --config.data.images=FOLDER --config.save_weights.dada=dada.safetensors
    python -m experiments.main --config=dsr3d \
        --config.data.root=FOLDER --config.data.category=cable_gland \
        --config.weights.dada=dada.safetensors

The default is the published code with colour and depth. Published means over the ten
classes of MVTec 3D-AD, I-AUROC / AUPRO@0.3: .978 / .972, depth alone I-AUROC .922.
`cpu` trains in minutes on two cores. Card: docs/systems/dsr3d.md.
"""

from ml_collections import ConfigDict

from experiments.configs.base import apply_variants, base_config
from experiments.configs.dsr import TINY_NETWORKS

# Light setting: minutes on two cores. The card gives the reason of each departure.
CPU = {
    "weights.dada": "shipped:dada_rgbd_light",
    "data.image_size": 256,  # at 128 a bump covers 12 cells of 4 x 4
    "data.batch_size": 1,
    "data.recipe": "ast",
    "model.geometry": "height",
    "model.dada_hidden": 64,
    "model.dada_residual": 32,
    "model.codes": 1024,
    "model.code_dimensions": 64,
    # How the shipped file was made, see ad3d_jax/experiment/shipped.
    "model.dada_kernels": "he",
    "model.dada_schedule": "cosine",
    "model.dada_steps": 2500,
    "model.code_decay": 0.95,
    "model.code_revive_below": 0.1,
    "hyper.dada_learning_rate": 2e-3,
    "hyper.dada_loss_depth": 3.0,
    "model.restriction_widths": (64, 128),
    "model.decoder_width": 32,
    "model.segmentation_width": 12,
    "model.fill": "edge",
    "model.schedule": "cosine",
    "model.steps": 2500,
    "model.score_window": 17,
    "hyper.learning_rate": 2e-3,
    "hyper.probability_normal": 0.3,
    "hyper.probability_both": 0.25,
    "hyper.probability_lower": 0.0,
    "hyper.probability_rotation": 0.0,
    "hyper.strength_low": 0.15,  # the nearest codes are within the noise
    "hyper.strength_high": 1.0,
    "hyper.drop": 0.02,
    "fit.checkpoint_every": 200,
    "fit.max_grad_norm": 1.0,
}

VARIANTS = {
    # One run of --phases=dada makes the file of the auto-encoder.
    "pretrain": {"data.image_size": 256, "data.batch_size": 64},
    "depth": {
        "model.modalities": ("depth",),
        "model.dada_distance": "l2",
        "model.score_window": 21,
    },
    # The text where it differs from the code.
    "paper": {
        "model.code_distance": "l1",
        "model.dada_distance": "l2",
        "model.score_sigma": 4.0,
        "hyper.loss_overlap": 0.0,
    },
    # The mask of the anomalies stays where the part was before it was turned.
    "still_mask": {"model.turn_foreground": False},
    # The ablation of the auto-encoder.
    "grey_depth": {"model.simulation": "grey"},
    "no_affine": {"model.simulation": "perlin"},
    "plain_vq": {"model.dada_grouped": False},
    "depth_weighted": {"hyper.dada_loss_depth": 3.0, "model.dada_grouped": False},
    "cpu": CPU,
    "tiny": {**TINY_NETWORKS, "model.patch_sides": (1, 2)},
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("dsr3d", recipe="dsr")
    config.data.image_size = 384
    config.data.batch_size = 16
    config.fit.max_grad_norm = None  # the release clips nothing
    return apply_variants(config, variant, VARIANTS)
