"""CPMF (arXiv 2303.13194): `cpmf.py[:variant]`, variants joined by '+' (`views+cpu`).

    python -m experiments.main --config=cpmf \
        --config.weights.backbone=timm/resnet18.tv_in1k \
        --config.data.root=FOLDER --config.data.category=cable_gland

The rows of the paper's tables are variants (card: docs/systems/cpmf.md). Published
means over the ten classes of MVTec 3D-AD: I-AUROC .9515, AUPRO .9293. `cpu` takes
minutes on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs.base import TINY, apply_variants, base_config


def backbone(name: str, source: str = "tv_in1k") -> dict[str, str]:
    """Returns the fields of a network and of the set of weights that timm gave it."""
    return {"model.backbone": name, "model.source": source}


def views(count: int) -> dict[str, int]:
    """Returns the fields of the first so many views."""
    return {"model.views": count, "data.recipe_parameters.views": count}


def colour(name: str) -> dict[str, str]:
    """Returns the field of what colours the points."""
    return {"data.recipe_parameters.view_colour": name}


VARIANTS = {
    # Both parts, or one of them.
    "views_fpfh": {"model.features": "views_fpfh"},
    "views": {"model.features": "views"},
    "fpfh": {"model.features": "fpfh", "model.backbone": ""},
    # How many views.
    **{f"{n}views": views(n) for n in (1, 3, 6, 9, 12, 15, 18, 21, 24, 27)},
    # Backbones.
    "resnet18": backbone("resnet18"),
    "resnet34": backbone("resnet34"),
    "resnet50": backbone("resnet50", "a1_in1k"),
    "wide_resnet50": backbone("wide_resnet50", "racm_in1k"),
    "wide_resnet101": backbone("wide_resnet101"),
    # What colours the points.
    **{f"colour_{name}": colour(name) for name in ("x", "y", "z", "normal", "rgb")},
    # Each view fills its picture by itself.
    "fitted_views": {"data.recipe_parameters.view_camera": "view"},
    # An exact Gaussian instead of the 8-bit one.
    "float_blur": {"model.blur": "gaussian"},
    # An exact choice of patches instead of the release's; many times faster on a CPU.
    "float32": {"model.precision": "float32"},
    # Minutes on two cores.
    "cpu": {
        **views(3),
        "data.recipe_parameters.view_size": 128,
        "data.recipe_parameters.point_size": 3,
        "data.image_size": 128,
        "model.precision": "float32",
        "model.cells": 16,
        "model.blur_radius": 128 / 224 * 4,
    },
    # Seconds, for tests.
    "tiny": {
        **TINY,
        **views(1),
        "data.recipe": "raw",
        "data.recipe_parameters.view_size": 32,
        "data.recipe_parameters.point_size": 3,
        "model.layers": ("layer1", "layer2"),
        "model.precision": "float32",
        "model.cells": 8,
        "model.fraction": 0.5,
        "model.blur_radius": 1.0,
        "model.chunk_bytes": 2**16,
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the configuration of the named variant."""
    config = base_config("cpmf", recipe="plane")
    config.data.image_size = 224
    config.model.match = True  # the report shows it
    return apply_variants(config, variant, VARIANTS)
