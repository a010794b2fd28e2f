"""The networks of DSR and 3DSR: a frozen auto-encoder and the detector on its codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, Batch, State, Tree
from ad3d_jax.nn.auto_encoder import AutoEncoder
from ad3d_jax.nn.object_decoder import ObjectDecoder
from ad3d_jax.nn.scope import Scope, scoring
from ad3d_jax.nn.unet import UNet
from ad3d_jax.ops.codebook import Codebook, nearest_code, straight_through
from ad3d_jax.synthesis.codes import enlarge_cells
from ad3d_jax.systems import dada
from ad3d_jax.systems.dada import CHANNELS, LEVELS, NAME

FIELDS = {"depth": "extras.depth_normalised", "rgb": "rgb"}


@dataclass(frozen=True)
class Config(dada.Config):
    """Structure of auto-encoder and detector; the defaults are 3DSR's."""

    restriction_widths: tuple[int, ...] = (128, 256, 512)
    decoder_width: int = 512  # of the object-specific decoder
    segmentation_width: int = 32  # first width of the U-Net
    patch_sides: tuple[int, ...] = (1, 2, 4, 8)  # of shuffled patches; () = no shuffle
    two_sided: bool = True  # masks from the magnitude of the noise
    everywhere: bool = False  # anomalies off the part too
    turn_foreground: bool = True  # with the images; False as published
    fill: str = "zero"  # what a turned image has outside: zero | edge
    code_distance: str = "l2"  # of restored codes: l2 | l1 (paper)
    detached: bool = False  # the segmentation does not train what it compares
    schedule: str = "step"  # step (x0.1 at 80 %) | cosine
    steps: int = 30_000
    score_window: int = 11  # side of the mean filter of the map, pixels
    score_sigma: float = 0.0  # of a Gaussian in its place (paper), pixels; 0 = none


class Networks(NamedTuple):
    """Modules by the names of their parameters."""

    dada: object
    restriction_lo: AutoEncoder
    restriction_hi: AutoEncoder
    object_decoder: ObjectDecoder
    segmentation: UNet


TRAINED = Networks._fields[1:]


class Pass(NamedTuple):
    """What the detector makes of quantised features."""

    restored: Mapping[str, Array]  # level -> features before quantisation
    general: Array  # [B,H,W,C], rendered from what was given
    specific: Array  # [B,H,W,C], rendered from what was restored
    probabilities: Array  # [B,H,W,2] of normal and anomalous


def needs(config: Config) -> tuple[str, ...]:
    """Returns the fields that scoring needs."""
    return tuple(FIELDS[modality] for modality in config.modalities)


def build(config: Config) -> Networks:
    """Returns the modules, unbound to parameters."""
    dtype = jnp.dtype(config.dtype)
    channels = sum(CHANNELS[modality] for modality in config.modalities)
    restriction = AutoEncoder(
        widths=config.restriction_widths,
        stages=tuple((w, w, w) for w in config.restriction_widths[-2::-1]),
        out_channels=config.code_dimensions,
        norm="instance",
        dtype=dtype,
    )
    decoder = ObjectDecoder(
        out_channels=channels,
        width=config.decoder_width,
        hidden=config.dada_hidden,
        residual=config.dada_residual,
        residual_layers=config.dada_residual_layers,
        dtype=dtype,
    )
    segmentation = segmenting_unet(config.segmentation_width, dtype)
    return Networks(dada.build(config), restriction, restriction, decoder, segmentation)


def segmenting_unet(width: int, dtype: jnp.dtype) -> UNet:
    """Returns the U-Net of the DSR line with another first width."""
    return UNet(
        widths=(width, 2 * width, 4 * width, 4 * width),
        up_widths=(4 * width, 2 * width, width),
        norm="instance",
        dtype=dtype,
    )


def init(
    config: Config, networks: Networks, key: Array, size: tuple[int, int]
) -> tuple[Tree, Tree]:
    """Returns fresh (params, extra) for images of `size`."""
    height, width = size
    dimensions = config.code_dimensions
    channels = sum(CHANNELS[modality] for modality in config.modalities)
    shapes = {
        "restriction_lo": (1, height // 8, width // 8, dimensions),
        "restriction_hi": (1, height // 4, width // 4, dimensions),
        "object_decoder": (1, height // 4, width // 4, 2 * dimensions),
        "segmentation": (1, height, width, 2 * channels),
    }
    keys = jax.random.split(key, 1 + len(shapes))
    params, codebooks = {}, {}
    params[NAME], codebooks = dada.init(config, keys[0])
    for key, (name, shape) in zip(keys[1:], shapes.items(), strict=True):
        module = getattr(networks, name)
        params[name] = module.init(key, jnp.zeros(shape), train=False)["params"]
    usage = {level: jnp.zeros(config.codes) for level in LEVELS}
    return params, {"codebooks": codebooks, "usage": usage}


def images(config: Config, batch: Batch) -> Array:
    """Returns the modalities side by side, [B,H,W,C]."""
    fields = {"rgb": batch.rgb, "depth": batch.extras.get("depth_normalised")}
    return jnp.concatenate([fields[m] for m in config.modalities], axis=-1)


def by_modality(config: Config, image: Array) -> dict[str, Array]:
    """Returns the channels [B,H,W,C] of each modality."""
    parts, start = {}, 0
    for modality in config.modalities:
        stop = start + CHANNELS[modality]
        parts[modality] = image[..., start:stop]
        start = stop
    return parts


def from_dada(networks: Networks, params: Tree, method: str, *inputs: Array) -> Array:
    """Returns what a method of the frozen auto-encoder makes of the inputs."""
    return networks.dada.apply({"params": params[NAME]}, *inputs, method=method)


def render(networks: Networks, params: Tree, q: Mapping[str, Array]) -> Array:
    """Returns the general decoder's image [B,H,W,C] of both levels."""
    enlarged = from_dada(networks, params, "enlarge", q["lo"])
    return from_dada(networks, params, "decode", enlarged, q["hi"])


def forward(
    config: Config,
    networks: Networks,
    scope: Scope,
    codebooks: Mapping[str, Codebook],
    q: Mapping[str, Array],
) -> Pass:
    """Restores quantised features, renders both kinds and segments their difference.

    Args:
        config: structure of the system.
        networks: modules of `build`.
        scope: parameters; nothing here has statistics.
        codebooks: of both levels.
        q: level -> quantised features, as encoded or with anomalies.
    """
    apply = partial(scope.apply, {}, weight=scope.weight)
    restored, requantised = {}, {}
    for level in LEVELS:
        name = f"restriction_{level}"
        restored[level], _ = apply(name, getattr(networks, name), q[level])
        codes = codebooks[level].codes
        nearest = codes[nearest_code(codes, restored[level])]
        requantised[level] = straight_through(restored[level], nearest)
    enlarged = from_dada(networks, scope.params, "enlarge", requantised["lo"])
    joined = jnp.concatenate([enlarged, requantised["hi"]], axis=-1)
    specific = apply("object_decoder", networks.object_decoder, joined)
    general = render(networks, scope.params, q)
    pair = jnp.concatenate([specific, general], axis=-1)
    if config.detached:
        pair = jax.lax.stop_gradient(pair)
    logits = apply("segmentation", networks.segmentation, pair)
    return Pass(restored, general, specific, jax.nn.softmax(logits, axis=-1))


def inspect(
    config: Config, networks: Networks, state: State, image: Array
) -> tuple[dada.Codes, Pass]:
    """Returns the codes of images [B,H,W,C] and what the detector makes of them."""
    books = state.extra["codebooks"]
    codes = dada.forward(networks.dada, state.params[NAME], books, image)
    q = {"lo": codes.q_lo, "hi": codes.q_hi}
    return codes, forward(config, networks, scoring(state.params, {}), books, q)


def pictures(config: Config, codes: dada.Codes, out: Pass) -> dict[str, Array]:
    """Returns both renderings by modality, and the codes as colours.

    "reconstruction_NAME" is of restored codes, "reconstruction_general_NAME" of those
    that were found; in "codes_lo" and "codes_hi" each code has its own random colour.
    """
    parts = {}
    for way, image in (("", out.specific), ("general_", out.general)):
        for modality, picture in by_modality(config, image).items():
            parts[f"reconstruction_{way}{modality}"] = picture
    palette = jax.random.uniform(jax.random.key(0), (config.codes, 3))
    for level, index in (("lo", codes.index_lo), ("hi", codes.index_hi)):
        parts[f"codes_{level}"] = enlarge_cells(palette[index], image.shape[1:3])
    return parts
