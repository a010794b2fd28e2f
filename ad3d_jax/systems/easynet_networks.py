"""The networks of EasyNet: compared auto-encoders and heads."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array
from ad3d_jax.nn.pixel_mlp import ComparedAutoEncoder, PixelMlp
from ad3d_jax.nn.rows import SCORING
from ad3d_jax.nn.scope import Scope, Shape

# Heads of each mode, and the modalities that a head reads.
HEADS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "rgb": {"rgb": ("rgb",)},
    "depth": {"depth": ("depth",)},
    "rgbd": {"fusion": ("rgb", "depth")},
    "fusion1": {"rgb": ("rgb",), "fusion": ("rgb", "depth")},
    "fusion2": {"rgb": ("rgb",), "fusion": ("rgb", "depth")},
}


class Pass(NamedTuple):
    """One forward pass over a batch."""

    reconstructions: Mapping[str, Array]  # modality -> [B,H,W,C] float32
    maps: Mapping[str, Array]  # head -> [B,H,W,2] probabilities, normal and anomalous
    pooled: Mapping[str, Array]  # modality -> [B,D] means of its compared features


def modalities(mode: str) -> tuple[str, ...]:
    """Returns the modalities that any head of the mode reads."""
    heads = HEADS[mode].values()
    return tuple(m for m in ("rgb", "depth") if any(m in reads for reads in heads))


def build_networks(config) -> dict:
    """Returns the modules of the mode: "branch_MODALITY", then "head_HEAD".

    Args:
        config: of `systems.easynet`, as everywhere below.
    """
    dtype = jnp.dtype(config.dtype)
    wide, counts = config.mlp_width, {"rgb": 3, "depth": config.depth_channels}
    hidden = (wide // 2, 2 * wide) if config.layers == 1 else (wide, wide // 2)
    branches = {
        f"branch_{m}": ComparedAutoEncoder(
            config.width, config.layers, wide, counts[m], config.halvings, dtype
        )
        for m in modalities(config.mode)
    }
    heads = {
        f"head_{head}": PixelMlp((*hidden, 2), dtype) for head in HEADS[config.mode]
    }
    return {**branches, **heads}


def input_shapes(config, size: tuple[int, int]) -> dict[str, tuple[Shape, ...]]:
    """Returns the shapes of the inputs of each network for images of `size`."""
    compared = (
        2 * config.width if config.layers == 1 else config.layers * config.mlp_width
    )
    channels = {
        "branch_rgb": 3,
        "branch_depth": config.depth_channels,
        **{f"head_{n}": compared * len(m) for n, m in HEADS[config.mode].items()},
    }
    return {name: ((1, *size, count),) for name, count in channels.items()}


def forward(
    config,
    networks: Mapping,
    scope: Scope,
    inputs: Mapping[str, Array],
    heads: tuple[str, ...],
    frozen: tuple[str, ...] = (),
) -> Pass:
    """Restores what the heads read, compares features and segments.

    Args:
        config: structure of the system.
        networks: modules of `build_networks`.
        scope: parameters and statistics.
        inputs: "rgb" [B,H,W,3] and "depth" [B,H,W,1], corrupted while training.
        heads: names of the heads to run.
        frozen: modalities whose networks stand still: they use their running
            statistics, as in scoring, and gather none.
    """
    readers = {head: HEADS[config.mode][head] for head in heads}
    still = scope._replace(rows=SCORING)
    reconstructions, compared = {}, {}
    for m in modalities(config.mode):
        if not any(m in reads for reads in readers.values()):
            continue
        at, name = still if m in frozen else scope, f"branch_{m}"
        seen = as_read(config, m, inputs[m])
        restored, compared[m] = at.apply(name, networks[name], seen)
        reconstructions[m] = as_read(config, m, restored) if m == "rgb" else restored
    maps = {}
    for head, reads in readers.items():
        joined = jnp.concatenate([compared[m] for m in reads], axis=-1)
        logits = scope.apply(f"head_{head}", networks[f"head_{head}"], joined)
        maps[head] = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    pooled = {
        m: jnp.mean(x.astype(jnp.float32), axis=(1, 2)) for m, x in compared.items()
    }
    return Pass(reconstructions, maps, pooled)


def as_read(config, modality: str, x: Array) -> Array:
    """Returns an image with its channels as the networks have them."""
    if modality == "depth":
        return jnp.repeat(x, config.depth_channels, axis=-1)
    return x[..., ::-1] if config.bgr else x
