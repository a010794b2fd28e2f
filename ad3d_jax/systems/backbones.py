"""What the systems on a frozen image network share."""

from collections.abc import Callable
from dataclasses import dataclass

from ad3d_jax.base import Array, Batch, Local, Pretrained, Scores, State
from ad3d_jax.features.extractors import (
    deepest,
    extractor,
    init_backbone,
    pretrained_backbone,
)
from ad3d_jax.features.modalities import embed_maps, map_names, modality_maps
from ad3d_jax.systems.fields import Fields


@dataclass(frozen=True)
class Backboned(Fields):
    """Fields that each of them has."""

    modalities: tuple[str, ...] = ("rgb",)  # depth is our extension
    backbone: str = "wide_resnet50"
    layers: tuple[str, ...] = ("layer2", "layer3")
    source: str = "tv_in1k"  # set of weights that is accepted, see features.known

    def __post_init__(self):
        super().__post_init__()
        deepest(self.backbone, self.layers)


def pretrained_parts(config: Backboned) -> tuple[Pretrained, ...]:
    """Returns the rows of `System.pretrained`: the network, of the accepted set."""
    accepted = (config.source,) if config.source else ()
    return (pretrained_backbone(config.backbone, accepted),)


def init_frozen(config: Backboned, key: Array) -> dict:
    """Returns `State.frozen` with a random network up to the deepest of the layers."""
    last_layer = deepest(config.backbone, config.layers)
    return {"backbone": init_backbone(key, config.backbone, last_layer)}


def cached_maps(config: Backboned, state: State, batch: Batch) -> dict[str, Array]:
    """Returns the network's maps of all modalities, see `modality_maps`.

    They are what `System.cache` gives: one pass serves all that is made of them.
    """
    return modality_maps(
        state.frozen["backbone"],
        config.backbone,
        batch,
        config.modalities,
        config.layers,
    )


def local(
    config: Backboned,
    size: int,
    cells: Callable[[Array, State, Batch], Array],
    whole: Callable[[Array, tuple[int, int]], Scores],
) -> Local | None:
    """Returns how patches are scored part by part; None where a part does not suffice.

    It does not for networks that attend to the whole image, nor for depth, which is
    scaled by the extremes of the whole image.

    Args:
        config: names network, layers and modalities.
        size: cells of a side of a patch's neighbourhood in each layer.
        cells: scores of the patches, on the grid of the first layer.
        whole: see `base.Local`.
    """
    reach = extractor(config.backbone).reach
    if reach is None or config.modalities != ("rgb",):
        return None
    seen = [reach(layer) for layer in config.layers]
    strides = [stride for _, stride in seen]
    far = max(pixels + (size // 2) * stride for pixels, stride in seen)
    if len(set(strides)) > 1:  # layers are interpolated on one grid
        far += max(strides)
    return Local(cells, whole, far, strides[0], max(strides))


def features(
    config: Backboned,
    embed: Callable[[tuple[Array, ...]], Array],
    state: State,
    batch: Batch,
) -> Array:
    """Returns the patch features of all modalities side by side, [B,h,w,D] float32.

    Args:
        config: names network, layers and modalities.
        embed: from the maps of the layers to patches, see `features.patches`.
        state: holds the network.
        batch: holds `cached_maps` among its extras, or what they are made from.
    """
    maps = batch.extras
    if not map_names(config.modalities, config.layers) <= maps.keys():
        maps = cached_maps(config, state, batch)
    return embed_maps(maps, config.modalities, config.layers, embed)
