"""PatchCore (arXiv 2106.08265): `patchcore.py[:variant]`, joined by '+' (`cpu+depth`).

    python -m experiments.main --config=patchcore \
        --config.weights.backbone=FILE --config.data.root=FOLDER \
        --config.data.category=cable_gland

The default is the authors' release; `anomalib`, `paper` and `ind_knn` score as those do
(card: docs/systems/patchcore.md). `cpu` takes minutes on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

RESNET18 = {
    "model.backbone": "resnet18",
    "model.patches": "concat",  # 384 channels: nothing to be reduced to 1024
}
EUCLIDEAN = {"model.distance": "l2", "model.reweight": "paper"}

VARIANTS = {
    # Whose PatchCore.
    "official": {},
    "paper": EUCLIDEAN,
    "anomalib": {
        **EUCLIDEAN,
        "model.patches": "concat",
        "model.start": "random",
        "model.projection": "sparse",
        "model.upsample": "nearest",
        "model.border": "mirror",
        "data.image_size": 256,
        "model.source": "racm_in1k",
    },
    "ind_knn": {
        "model.distance": "l2",
        "model.reweight": "ind_knn",
        "model.support": 3,
        "model.patches": "concat",
        "model.start": "first",
        "model.projection": "sparse",
        "model.source": "racm_in1k",
    },
    # Which rows the bank keeps; the default is a greedy tenth.
    "exact_coreset": {"model.projection": "none"},
    "random_rows": {"model.choice": "random"},
    "all_rows": {"model.fraction": 1.0},
    # Other rows of the release's table. Its ensemble of three networks is missing.
    "320": {"data.image_size": 320, "model.fraction": 0.01},
    "patch_5": {"model.patch_size": 5},
    # What is looked at; depth is ours.
    "rgb": {"model.modalities": ("rgb",)},
    "depth": {"model.modalities": ("depth",)},
    "rgb_depth": {"model.modalities": ("rgb", "depth")},
    # Backbones.
    "wide_resnet50": {"model.backbone": "wide_resnet50"},
    "resnet50": {"model.backbone": "resnet50"},
    "resnet18": RESNET18,
    # The release's images of MVTec AD: 256 pixels, of which the central 224 count.
    "mvtec_ad": {
        "data.name": "mvtec_ad",
        "data.recipe_parameters.resize_size": 256,
    },
    # Minutes on two cores.
    "cpu": {**RESNET18, "model.sigma": 128 / 224 * 4, "data.image_size": 128},
    # Seconds, for tests.
    "tiny": {
        **TINY,
        **EUCLIDEAN,
        "data.recipe": "ast",
        "model.modalities": ("rgb", "depth"),
        "model.backbone": "resnet18",
        "model.layers": ("layer1", "layer2"),
        "model.dimensions": 24,
        "model.fraction": 0.5,
        "model.support": 3,
        "model.sigma": 1.0,
        "model.chunk_bytes": 2**16,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("patchcore", recipe="raw")
    config.data.image_size = 224
    config.data.recipe_parameters.interpolation = "bilinear"
    config.model.match = True  # the report shows it
    return apply_variants(config, variant, VARIANTS)
