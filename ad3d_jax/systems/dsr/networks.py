"""The networks of DSR and 3DSR: a frozen auto-encoder and the detector on its codes."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, Batch, State, Tree
from ad3d_jax.nn.auto_encoder import AutoEncoder
from ad3d_jax.nn.object_decoder import ObjectDecoder
from ad3d_jax.nn.scope import Scope, init_networks, scoring
from ad3d_jax.nn.unet import UNet
from ad3d_jax.ops.codebook import Codebook, nearest_code, straight_through
from ad3d_jax.synthesis.codes import enlarge_cells
from ad3d_jax.systems.dsr import auto_encoder
from ad3d_jax.systems.dsr.auto_encoder import LEVELS, NAME, Codes
from ad3d_jax.systems.modalities import CHANNELS, Modalities

TRAINED = ("restriction_lo", "restriction_hi", "object_decoder", "segmentation")


class Pass(NamedTuple):
    """What the detector makes of quantised features."""

    restored: Mapping[str, Array]  # level -> features before quantisation
    general: Array  # [B,H,W,C], rendered from what was given
    specific: Array  # [B,H,W,C], rendered from what was restored
    probabilities: Array  # [B,H,W,2] of normal and anomalous


def build(config) -> dict:
    """Returns the modules by the names of their parameters, the auto-encoder first.

    Args:
        config: of `systems.dsr.detector`, as everywhere below.
    """
    dtype = jnp.dtype(config.dtype)
    channels = seen(config).channels
    # In float32, as all that leads to codes: a rounding may choose another one.
    restriction = AutoEncoder(
        widths=config.restriction_widths,
        stages=tuple((w, w, w) for w in config.restriction_widths[-2::-1]),
        out_channels=config.code_dimensions,
        norm="instance",
    )
    decoder = ObjectDecoder(
        out_channels=channels,
        width=config.decoder_width,
        hidden=config.dada_hidden,
        residual=config.dada_residual,
        residual_layers=config.dada_residual_layers,
        dtype=dtype,
    )
    return {
        NAME: auto_encoder.build(config),
        "restriction_lo": restriction,
        "restriction_hi": restriction,
        "object_decoder": decoder,
        "segmentation": segmenting_unet(config.segmentation_width, dtype),
    }


def segmenting_unet(width: int, dtype: jnp.dtype) -> UNet:
    """Returns the U-Net of the DSR line with another first width."""
    return UNet(
        widths=(width, 2 * width, 4 * width, 4 * width),
        up_widths=(4 * width, 2 * width, width),
        norm="instance",
        dtype=dtype,
    )


def init(
    config, networks: Mapping, key: Array, size: tuple[int, int]
) -> tuple[dict, dict]:
    """Returns fresh (params, extra) for images of `size`."""
    height, width = size
    dimensions = config.code_dimensions
    channels = seen(config).channels
    shapes = {
        "restriction_lo": ((1, height // 8, width // 8, dimensions),),
        "restriction_hi": ((1, height // 4, width // 4, dimensions),),
        "object_decoder": ((1, height // 4, width // 4, 2 * dimensions),),
        "segmentation": ((1, height, width, 2 * channels),),
    }
    first, *keys = jax.random.split(key, 1 + len(shapes))
    dada, codebooks = auto_encoder.init(config, first)
    params, _ = init_networks({n: networks[n] for n in TRAINED}, shapes, keys)
    usage = {level: jnp.zeros(config.codes) for level in LEVELS}
    return {NAME: dada, **params}, {"codebooks": codebooks, "usage": usage}


def seen(config) -> Modalities:
    """Returns what the networks read."""
    return Modalities(config.modalities, config.geometry)


def images(config, batch: Batch) -> Array:
    """Returns the modalities side by side, [B,H,W,C]."""
    return jnp.concatenate(list(seen(config).inputs(batch).values()), axis=-1)


def by_modality(config, image: Array) -> dict[str, Array]:
    """Returns the channels [B,H,W,C] of each modality."""
    counts = [CHANNELS[modality] for modality in config.modalities]
    cuts = [sum(counts[: number + 1]) for number in range(len(counts) - 1)]
    return dict(zip(config.modalities, jnp.split(image, cuts, axis=-1), strict=True))


def from_dada(networks: Mapping, params: Tree, method: str, *inputs: Array) -> Array:
    """Returns what a method of the frozen auto-encoder makes of the inputs."""
    return networks[NAME].apply({"params": params[NAME]}, *inputs, method=method)


def render(networks: Mapping, params: Tree, q: Mapping[str, Array]) -> Array:
    """Returns the general decoder's image [B,H,W,C] of both levels."""
    enlarged = from_dada(networks, params, "enlarge", q["lo"])
    return from_dada(networks, params, "decode", enlarged, q["hi"])


def forward(
    config,
    networks: Mapping,
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
    restored, requantised = {}, {}
    for level in LEVELS:
        name = f"restriction_{level}"
        restored[level], _ = scope.apply(name, networks[name], q[level])
        codes = codebooks[level].codes
        nearest = codes[nearest_code(codes, restored[level])]
        requantised[level] = straight_through(restored[level], nearest)
    enlarged = from_dada(networks, scope.params, "enlarge", requantised["lo"])
    joined = jnp.concatenate([enlarged, requantised["hi"]], axis=-1)
    specific = scope.apply("object_decoder", networks["object_decoder"], joined)
    general = render(networks, scope.params, q)
    pair = jnp.concatenate([specific, general], axis=-1)
    if config.detached:
        pair = jax.lax.stop_gradient(pair)
    logits = scope.apply("segmentation", networks["segmentation"], pair)
    return Pass(restored, general, specific, jax.nn.softmax(logits, axis=-1))


def inspect(
    config, networks: Mapping, state: State, image: Array
) -> tuple[Codes, Pass]:
    """Returns the codes of images [B,H,W,C] and what the detector makes of them."""
    books = state.extra["codebooks"]
    codes = auto_encoder.forward(networks[NAME], state.params[NAME], books, image)
    q = {"lo": codes.q_lo, "hi": codes.q_hi}
    return codes, forward(config, networks, scoring(state), books, q)


def shown(config, codes: Codes, out: Pass) -> dict[str, Array]:
    """Returns both renderings by modality, and the codes as colours.

    "reconstruction_NAME" is of restored codes, "reconstruction_general_NAME" of those
    that were found; in "codes_lo" and "codes_hi" each code has its own random colour.
    """
    parts = {}
    for caption, image in (("", out.specific), ("_general", out.general)):
        modalities = by_modality(config, image)
        parts |= seen(config).captioned(f"reconstruction{caption}", modalities)
    palette = jax.random.uniform(jax.random.key(0), (config.codes, 3))
    for level, index in (("lo", codes.index_lo), ("hi", codes.index_hi)):
        parts[f"codes_{level}"] = enlarge_cells(palette[index], image.shape[1:3])
    return parts
