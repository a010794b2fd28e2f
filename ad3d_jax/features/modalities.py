"""Patch features of what a batch holds: RGB, depth as an image, or both."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from ad3d_jax.base import Array, Batch, Tree
from ad3d_jax.features.extractors import feature_maps

NEEDS = {"rgb": ("rgb",), "depth": ("depth", "valid")}


def needed_fields(modalities: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the batch fields that the modalities are made from.

    Raises:
        ValueError: there is none, or one is neither "rgb" nor "depth".
    """
    unknown = [name for name in modalities if name not in NEEDS]
    if unknown or not modalities:
        raise ValueError(
            f"model.modalities: expected some of {', '.join(NEEDS)}, "
            f"found {tuple(modalities)!r}"
        )
    return tuple(field for name in modalities for field in NEEDS[name])


def depth_image(depth: Array, valid: Array) -> Array:
    """Returns depth as a grey image, [B,H,W,3] float32 in [0,1].

    The nearest measured point of each sample becomes 0 and the farthest 1; missing
    points are 0. Our choice: the image systems' papers know no depth.

    Args:
        depth: [B,H,W,1] float32 metres.
        valid: [B,H,W,1] bool.
    """
    axes = (1, 2, 3)
    low = jnp.min(jnp.where(valid, depth, jnp.inf), axes, keepdims=True)
    high = jnp.max(jnp.where(valid, depth, -jnp.inf), axes, keepdims=True)
    span = high - low
    usable = valid & jnp.isfinite(span) & (span > 0)
    safe = jnp.where(usable, (depth - low) / jnp.where(usable, span, 1.0), 0.0)
    return jnp.repeat(safe, 3, axis=-1)


def modality_maps(
    backbone: Tree,
    name: str,
    batch: Batch,
    modalities: tuple[str, ...],
    layers: tuple[str, ...],
) -> dict[str, Array]:
    """Returns the maps of all modalities, "MODALITY_LAYER" -> [B,h,w,C] float32.

    Args:
        backbone: parameters, see `features.extractors.init_backbone`.
        name: of the backbone.
        batch: holds `needed_fields(modalities)`.
        modalities: names in NEEDS; each passes through the same backbone.
        layers: names of the tapped layers.
    """
    makers = {
        "rgb": lambda: batch.rgb,
        "depth": lambda: depth_image(batch.depth, batch.valid),
    }
    images = jnp.concatenate([makers[modality]() for modality in modalities])
    maps = feature_maps(backbone, name, images, layers)

    def parts(map: Array) -> list[Array]:
        # One is left as it is, so that all systems' programs of a network are alike.
        return [map] if len(modalities) == 1 else jnp.split(map, len(modalities))

    return {
        f"{modality}_{layer}": part
        for layer, map in zip(layers, maps, strict=True)
        for modality, part in zip(modalities, parts(map), strict=True)
    }


def map_names(modalities: tuple[str, ...], layers: tuple[str, ...]) -> set[str]:
    """Returns the names of the maps of `modality_maps`."""
    return {f"{modality}_{layer}" for modality in modalities for layer in layers}


def embed_maps(
    maps: Mapping[str, Array],
    modalities: tuple[str, ...],
    layers: tuple[str, ...],
    embed: Callable[[tuple[Array, ...]], Array],
) -> Array:
    """Returns the patch features of all modalities side by side, [B,h,w,D] float32.

    Args:
        maps: from `modality_maps`.
        modalities: as given there.
        layers: as given there.
        embed: from the maps of the layers to patches, see `features.patches`.
    """
    patches = [
        embed(tuple(maps[f"{modality}_{layer}"] for layer in layers))
        for modality in modalities
    ]
    return jnp.concatenate(patches, axis=-1)
