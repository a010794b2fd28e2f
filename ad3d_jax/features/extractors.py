"""The table of frozen feature extractors, and how a system uses one by its name."""

import os
from collections.abc import Callable
from typing import NamedTuple

from ad3d_jax.base import Array, Pretrained, State, Tree
from ad3d_jax.features.inputs import HALF, IMAGENET, Inputs
from ad3d_jax.features.resnet import (
    init_resnet,
    read_resnet,
    resnet_maps,
    resnet_reach,
)
from ad3d_jax.features.vit import init_vit, read_vit, vit_maps
from ad3d_jax.nn.resnet import LAYERS
from ad3d_jax.nn.vit import VITS


class Extractor(NamedTuple):
    """A network that is pretrained and stays as it is."""

    init: Callable[[Array, str], Tree]  # (key, deepest layer) -> random weights
    apply: Callable[[Tree, Array, tuple[str, ...]], tuple[Array, ...]]  # maps of layers
    read: Callable[[str | os.PathLike, Tree], Tree]  # (file, like) -> its weights
    layers: tuple[str, ...]  # what can be tapped, shallow to deep
    inputs: Inputs = IMAGENET  # constants by which `apply` normalises
    # layer -> (reach, stride) in pixels, see `resnet_reach`; None: it sees all of it
    reach: Callable[[str], tuple[int, int]] | None = None


def _resnet(name: str) -> Extractor:
    return Extractor(
        init=lambda key, deepest: init_resnet(key, name, deepest),
        apply=lambda params, rgb, layers: resnet_maps(params, name, rgb, layers),
        read=lambda file, like: read_resnet(file, name, like),
        layers=LAYERS,
        reach=lambda layer: resnet_reach(name, layer),
    )


def _vit(name: str, inputs: Inputs = IMAGENET) -> Extractor:
    return Extractor(
        init=lambda key, deepest: init_vit(key, name, deepest),
        apply=lambda params, rgb, layers: vit_maps(params, name, rgb, layers, inputs),
        read=lambda file, like: read_vit(file, name, like),
        layers=VITS[name].layers,
        inputs=inputs,
    )


EXTRACTORS = {
    "resnet18": _resnet("resnet18"),
    "resnet34": _resnet("resnet34"),
    "resnet50": _resnet("resnet50"),
    "wide_resnet50": _resnet("wide_resnet50"),
    "wide_resnet101": _resnet("wide_resnet101"),
    # DINO; also what feeds ImageNet's constants to supervised weights, as M3DM does.
    "vit_small_patch8_224": _vit("vit_small_patch8_224"),
    "vit_base_patch8_224": _vit("vit_base_patch8_224"),
    # The same network with the constants of timm's augreg sets.
    "vit_base_patch8_224_augreg": _vit("vit_base_patch8_224", HALF),
    "vit_small_patch14_reg4_dinov2": _vit("vit_small_patch14_reg4_dinov2"),
    "vit_base_patch14_reg4_dinov2": _vit("vit_base_patch14_reg4_dinov2"),
}
BACKBONES = tuple(EXTRACTORS)


def extractor(name: str) -> Extractor:
    """Returns the row of EXTRACTORS of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in EXTRACTORS:
        raise ValueError(f"model.backbone: expected one of {BACKBONES}, found {name!r}")
    return EXTRACTORS[name]


def deepest(name: str, layers: tuple[str, ...]) -> str:
    """Returns the deepest of some layers of a network.

    Args:
        name: one of BACKBONES.
        layers: some of the extractor's layers.

    Raises:
        ValueError: an unknown name or layer, or no layer.
    """
    known = extractor(name).layers
    if not layers or not set(layers) <= set(known):
        raise ValueError(
            f"model.layers: expected some of {known}, which {name} has, found {layers}"
        )
    return max(layers, key=known.index)


def init_backbone(key: Array, name: str, last_layer: str = "layer3") -> Tree:
    """Returns random weights of a network up to a layer, to be replaced by a file's.

    Args:
        key: random key.
        name: one of BACKBONES.
        last_layer: one of the extractor's layers.

    Raises:
        ValueError: an unknown name or layer.
    """
    return extractor(name).init(key, last_layer)


def feature_maps(
    params: Tree, name: str, rgb: Array, layers: tuple[str, ...]
) -> tuple[Array, ...]:
    """Returns the maps of a frozen network's layers, [B,h,w,C] float32 each.

    Args:
        params: from `init_backbone` or from a file.
        name: one of BACKBONES.
        rgb: [B,H,W,3] float32 in [0,1].
        layers: names of layers, in the order in which the maps are returned.

    Raises:
        ValueError: an unknown name or layer, or one that `params` does not reach.
    """
    return extractor(name).apply(params, rgb, layers)


def pretrained_backbone(name: str, sources: tuple[str, ...] = ()) -> Pretrained:
    """Returns the row of `System.pretrained` of the network at frozen["backbone"].

    Args:
        name: one of BACKBONES.
        sources: sets of weights that are accepted (`known.SOURCES`); () = any.

    Raises:
        ValueError: an unknown name.
    """
    return Pretrained(
        name="backbone",
        get=_backbone,
        put=_with_backbone,
        read=extractor(name).read,
        sources=sources,
    )


def _backbone(state: State) -> Tree:
    return state.frozen["backbone"]


def _with_backbone(state: State, weights: Tree) -> State:
    return state._replace(frozen={**state.frozen, "backbone": weights})
