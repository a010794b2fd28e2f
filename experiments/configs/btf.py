"""BTF (arXiv 2203.05550): `btf.py[:variant]`, variants joined by '+' (`fpfh+cpu`).

    python -m experiments.main --config=btf:fpfh \
        --config.data.root=FOLDER --config.data.category=cable_gland \
        [--config.data.recipe=raw|plane] [--config.model.fpfh=jnp|open3d]

The seven feature sets of the paper's tables are variants (card: docs/systems/btf.md).
Published means over the ten classes of MVTec 3D-AD on raw data, I-AUROC / P-AUROC /
AUPRO: `rgb_fpfh`, the default, .873 / .993 / .964; `fpfh` .753 / .980 / .928; `rgb`
.785 / .966 / .876; of the others I-AUROC alone: `sift` .714, `depth` .637, `hog` .560,
`raw` .528. `cpu` takes minutes on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config

VARIANTS = {
    # Feature sets; `fpfh`, `raw`, `hog` and `sift` need no network.
    "rgb_fpfh": {"model.features": "rgb_fpfh"},
    "rgb": {"model.features": "rgb"},
    "depth": {"model.features": "depth"},
    "raw": {"model.features": "raw", "model.backbone": ""},
    "hog": {"model.features": "hog", "model.backbone": ""},
    "sift": {"model.features": "sift", "model.backbone": ""},
    "fpfh": {"model.features": "fpfh", "model.backbone": ""},
    # Backbones; the paper has the first, so that others may come from anywhere.
    "wide_resnet50": {"model.backbone": "wide_resnet50"},
    "resnet50": {"model.backbone": "resnet50", "model.source": ""},
    "resnet18": {"model.backbone": "resnet18", "model.source": ""},
    # An exact Gaussian instead of the 8-bit one.
    "float_blur": {"model.blur": "gaussian"},
    # An exact choice of patches instead of the release's; many times faster on a CPU.
    "float32": {"model.precision": "float32"},
    # Minutes on two cores.
    "cpu": {
        "model.features": "fpfh",
        "model.backbone": "",
        "model.precision": "float32",
        "model.cells": 16,
        "model.blur_radius": 128 / 224 * 4,
        "data.image_size": 128,
    },
    # Seconds, for tests.
    "tiny": {
        **TINY,
        "model.backbone": "resnet18",
        "model.layers": ("layer1", "layer2"),
        "model.precision": "float32",
        "model.cells": 8,
        "model.fraction": 0.5,
        "model.blur_radius": 1.0,
        "model.chunk_bytes": 2**16,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant.

    `model.fpfh` says who makes that descriptor: `jnp` is the system, on the
    accelerator; `open3d` the recipe, once, on the CPU.
    """
    config = base_config("btf", recipe="raw")
    config.data.image_size = 224
    config.model.match = True  # the report shows it
    config.data.recipe_parameters.interpolation = "bicubic"
    return apply_variants(config, variant, VARIANTS)
