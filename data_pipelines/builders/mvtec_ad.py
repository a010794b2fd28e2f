"""TFDS builder of data in the MVTec AD layout, preprocessed by a recipe.

MVTec AD (Bergmann et al., CVPR 2019 and IJCV 2021, CC BY-NC-SA 4.0) has to be
downloaded by hand, after registration, from
mvtec.com/company/research/datasets/mvtec-ad.
"""

from data_pipelines.arrangements import MVTEC_AD
from data_pipelines.builders.mvtec3d import Mvtec3d, Mvtec3dConfig

CATEGORIES = (
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
)


class MvtecAd(Mvtec3d):
    """Images of one class of MVTec AD; splits train and test, in order."""

    LAYOUT = MVTEC_AD
    BUILDER_CONFIGS = [
        Mvtec3dConfig(name=name, recipe="raw", measured=frozenset(("rgb",)))
        for name in CATEGORIES
    ]
