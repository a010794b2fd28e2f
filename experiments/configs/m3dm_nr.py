"""M3DM-NR (arXiv 2406.02263): `m3dm_nr.py[:variant]`, variants joined by '+'.

    python -m experiments.main --config=m3dm_nr \
        --config.data.root=FOLDER --config.data.category=cable_gland \
        --config.weights.backbone=timm/vit_base_patch8_224.dino \
        --config.weights.points=pointmae_pretrain.safetensors \
        --config.weights.uff=uff.safetensors

A reconstruction, since there is no public code; its figures are not the paper's. The
fusion is that of M3DM, whose file it takes. Card: docs/systems/m3dm_nr.md.
"""

from ml_collections import ConfigDict

from experiments.configs import m3dm
from experiments.configs.base import apply_variants, base_config

VARIANTS = {
    **m3dm.VARIANTS,
    # Stage III alone, and the first two alone.
    "rows": {"model.removed": 0.0},
    "samples": {"model.doubtful": 0.0, "model.soft": False},
    # A row counts as it is typical, or not.
    "hard": {"model.soft": False},
    "tiny": {
        **m3dm.VARIANTS["tiny"],
        "model.removed": 0.2,
        "model.outlier_neighbours": 2,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("m3dm_nr", recipe="plane")
    config.data.image_size = 224
    config.data.recipe_parameters.interpolation = "bicubic"
    config.data.batch_size = config.eval.batch_size = 1
    config.fit.max_grad_norm = None
    return apply_variants(config, variant, VARIANTS)
