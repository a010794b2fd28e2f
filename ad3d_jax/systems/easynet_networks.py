"""The networks of EasyNet: compared auto-encoders and heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, Tree
from ad3d_jax.nn.pixel_mlp import ComparedAutoEncoder, PixelMlp
from ad3d_jax.nn.scope import Scope

# Heads of each mode, and the modalities that a head reads.
HEADS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "rgb": {"rgb": ("rgb",)},
    "depth": {"depth": ("depth",)},
    "rgbd": {"fusion": ("rgb", "depth")},
    "fusion1": {"rgb": ("rgb",), "fusion": ("rgb", "depth")},
    "fusion2": {"rgb": ("rgb",), "fusion": ("rgb", "depth")},
}


@dataclass(frozen=True)
class Config:
    """Structure of the system; a change of any field compiles anew."""

    mode: str = "fusion1"  # rgb | depth | rgbd | fusion1 (joint) | fusion2 (in turn)
    layers: int = 2  # levels that are compared: 1, 2 or 3
    width: int = 128  # first width of the auto-encoders
    halvings: int = 4  # of the picture, in the auto-encoders
    mlp_width: int = 512  # of a level's perceptron; the heads go with it
    gate: str = "control"  # control (by entropy) | close (colour map) | open (fusion)
    threshold: str = "calibrated"  # of the gate; given = hyper.gate_threshold
    depth_range: str = "object"  # object | all_pixels (release): what is 0..1
    depth_8bit: bool = False  # release: depth in 256 levels
    depth_channels: int = 3  # identical ones, as in the release
    depth_texture: str = "noise"  # of synthetic anomalies; grey = blended, as DBRN
    bgr: bool = False  # release: networks see blue first
    textures: int = 64  # procedural textures, unless a folder is given
    texture_size: int = 256  # side of a texture, pixels
    schedule: str = "step"  # step (x0.2 at 80 % and 90 %) | cosine (50 warm-up steps)
    epochs: int = 770  # of each phase
    score_window: int = 21  # side of the mean filter before the image maximum, pixels
    dtype: str = "float32"  # compute type; parameters and statistics stay float32


class Networks(NamedTuple):
    """Modules by modality and by head."""

    branches: Mapping[str, ComparedAutoEncoder]
    heads: Mapping[str, PixelMlp]


class Pass(NamedTuple):
    """One forward pass over a batch."""

    reconstructions: Mapping[str, Array]  # modality -> [B,H,W,C] float32
    maps: Mapping[str, Array]  # head -> [B,H,W,2] probabilities, normal and anomalous
    pooled: Mapping[str, Array]  # modality -> [B,D] means of its compared features
    sums: Tree  # statistics of the batch norms, by parameter group


def modalities(config: Config) -> tuple[str, ...]:
    """Returns the modalities that any head reads."""
    heads = HEADS[config.mode].values()
    return tuple(m for m in ("rgb", "depth") if any(m in reads for reads in heads))


def channels(config: Config) -> dict[str, int]:
    """Returns the channels of each modality's network input."""
    known = {"rgb": 3, "depth": config.depth_channels}
    return {m: known[m] for m in modalities(config)}


def build_networks(config: Config) -> Networks:
    """Returns the modules of the mode, unbound to parameters."""
    dtype = jnp.dtype(config.dtype)
    wide = config.mlp_width
    hidden = (wide // 2, 2 * wide) if config.layers == 1 else (wide, wide // 2)
    return Networks(
        branches={
            m: ComparedAutoEncoder(
                config.width, config.layers, wide, count, config.halvings, dtype
            )
            for m, count in channels(config).items()
        },
        heads={head: PixelMlp((*hidden, 2), dtype) for head in HEADS[config.mode]},
    )


def init_variables(
    config: Config, networks: Networks, key: Array, size: tuple[int, int]
) -> Tree:
    """Returns fresh variables by parameter group, for pictures of `size`."""
    keys = iter(jax.random.split(key, len(networks.branches) + len(networks.heads)))
    variables, compared = {}, {}
    for m, module in networks.branches.items():
        blank = jnp.zeros((1, *size, channels(config)[m]))
        (_, compared[m]), variables[f"branch_{m}"] = module.init_with_output(
            next(keys), blank, train=False
        )
    for head, module in networks.heads.items():
        joined = join(compared, HEADS[config.mode][head])
        variables[f"head_{head}"] = module.init(next(keys), joined, train=False)
    return variables


def forward(
    config: Config,
    networks: Networks,
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
    sums: dict = {}
    still = scope._replace(train=False, weight=None)
    reconstructions, compared = {}, {}
    for m, module in networks.branches.items():
        if not any(m in reads for reads in readers.values()):
            continue
        at = still if m in frozen else scope
        seen = as_read(config, m, inputs[m])
        restored, compared[m] = at.apply(
            sums, f"branch_{m}", module, seen, weight=at.weight
        )
        reconstructions[m] = as_read(config, m, restored) if m == "rgb" else restored
    maps = {}
    for head, reads in readers.items():
        module, joined = networks.heads[head], join(compared, reads)
        logits = scope.apply(sums, f"head_{head}", module, joined, weight=scope.weight)
        maps[head] = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    pooled = {
        m: jnp.mean(x.astype(jnp.float32), axis=(1, 2)) for m, x in compared.items()
    }
    return Pass(reconstructions, maps, pooled, sums)


def as_read(config: Config, modality: str, x: Array) -> Array:
    """Returns a picture with its channels as the networks have them."""
    if modality == "depth":
        return jnp.repeat(x, config.depth_channels, axis=-1)
    return x[..., ::-1] if config.bgr else x


def join(compared: Mapping[str, Array], reads: tuple[str, ...]) -> Array:
    """Returns the compared features of some modalities side by side."""
    return jnp.concatenate([compared[m] for m in reads], axis=-1)
