"""DSR (arXiv 2208.01521): `dsr.py[:variant]`, variants joined by '+'.

    python -m experiments.main --config=dsr:pretrain --phases=dada \
        --config.data.images=FOLDER --config.save_weights.dada=dsr.safetensors
    python -m experiments.main --config=dsr \
        --config.data.name=mvtec_ad --config.data.root=FOLDER \
        --config.data.category=screw --config.weights.dada=dsr.safetensors

The default is the published code: RGB at 256 pixels. Published mean over the classes of
MVTec AD: I-AUROC .982. `cpu` trains in minutes on two cores. Card: docs/systems/dsr.md.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

# Light setting: minutes on two cores. The card gives the reason of each departure.
CPU = {
    "weights.dada": "shipped:dada_rgb_light",
    "data.image_size": 64,
    "data.batch_size": 8,
    "data.procedural_images": 512,
    "model.dada_hidden": 64,
    "model.dada_residual": 32,
    "model.dada_kernels": "he",
    "model.dada_schedule": "cosine",
    "model.dada_steps": 2400,
    "model.codes": 512,
    "model.code_dimensions": 64,
    "model.code_decay": 0.95,
    "model.code_revive_below": 0.2,
    "model.restriction_widths": (64, 128),
    "model.decoder_width": 64,
    "model.segmentation_width": 16,
    "model.schedule": "cosine",
    "model.steps": 1200,
    "model.map": "coarse",  # minutes of the third phase spoil it
    "model.score_window": 5,  # 21 pixels at 256
    "hyper.dada_learning_rate": 1e-3,
    "hyper.learning_rate": 2e-3,
    # The lower level of such an auto-encoder carries nothing that shows.
    "hyper.probability_lower": 0.0,
    "hyper.probability_both": 0.0,
    "hyper.probability_rotation": 0.0,
    "fit.checkpoint_every": 200,
    "fit.max_grad_norm": 1.0,
}

# Seconds, for tests; of 3DSR, too.
TINY_NETWORKS = {
    **TINY,
    "data.procedural_images": 32,
    "model.dada_hidden": 16,
    "model.dada_residual": 8,
    "model.dada_residual_layers": 1,
    "model.dada_kernels": "he",
    "model.dada_schedule": "cosine",
    "model.dada_steps": 300,
    "model.codes": 32,
    "model.code_dimensions": 16,
    "model.code_revive_below": 0.01,
    "model.restriction_widths": (16, 32),
    "model.decoder_width": 8,
    "model.segmentation_width": 8,
    "model.schedule": "cosine",
    "model.steps": 600,
    "model.score_window": 5,
    "hyper.dada_learning_rate": 3e-3,
    "hyper.learning_rate": 3e-3,
    "hyper.probability_normal": 0.3,
    "hyper.probability_rotation": 0.0,
    "hyper.threshold_low": 0.3,
    "hyper.threshold_high": 0.5,
    "hyper.strength_low": 0.5,
}

VARIANTS = {
    # One run of --phases=dada makes the file of the auto-encoder.
    "pretrain": {"data.batch_size": 64},
    "coarse": {"model.map": "coarse"},
    "cpu": CPU,
    "tiny": {
        **TINY_NETWORKS,
        "model.upsampler_width": 4,
        "model.upsampler_steps": 200,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("dsr", recipe="raw")
    config.fit.max_grad_norm = None  # the release clips nothing
    return apply_variants(config, variant, VARIANTS)
