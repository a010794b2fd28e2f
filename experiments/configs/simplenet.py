"""SimpleNet's configurations: the release's, backbones, modalities, and a light one.

--config=simplenet[:variant[+variant]]
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

VARIANTS = {
    "rgb": {"model.modalities": ("rgb",)},
    "depth": {"model.modalities": ("depth",)},
    "rgb_depth": {"model.modalities": ("rgb", "depth")},
    "wide_resnet50": {"model.backbone": "wide_resnet50", "model.dimensions": 1536},
    "resnet50": {"model.backbone": "resnet50", "model.dimensions": 1536},
    "resnet18": {"model.backbone": "resnet18", "model.dimensions": 384},
    # The release's images of MVTec AD: 329 pixels, of which the central 288 count.
    "mvtec_ad": {
        "data.name": "mvtec_ad",
        "data.recipe_parameters.resize_size": 329,
    },
    # Minutes on two cores.
    "cpu": {
        "model.backbone": "resnet18",
        "model.dimensions": 384,
        "model.hidden": 256,
        "model.epochs": 80,
        "hyper.learning_rate_adaptor": 5e-4,
        "hyper.learning_rate_discriminator": 1e-3,
        "data.image_size": 128,
    },
    # Seconds, for tests.
    "tiny": {
        **TINY,
        "data.recipe": "ast",
        "model.modalities": ("rgb", "depth"),
        "model.backbone": "resnet18",
        "model.layers": ("layer1", "layer2"),
        "model.dimensions": 32,
        "model.hidden": 128,
        "model.epochs": 100,
        "model.sigma": 1.0,
        "hyper.noise": 0.05,
        "hyper.learning_rate_adaptor": 1e-3,
        "hyper.learning_rate_discriminator": 1e-3,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("simplenet", recipe="raw")
    config.data.image_size = 288
    config.data.recipe_parameters.interpolation = "bilinear"
    config.fit.max_grad_norm = None  # the release clips nothing
    return apply_variants(config, variant, VARIANTS)
