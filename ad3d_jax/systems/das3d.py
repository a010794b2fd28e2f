"""DAS3D: paired anomalies of shape and colour, restored and compared in both.

K. Li, B. Dai, J. Fu, X. Hou, "DAS3D: Dual-modality Anomaly Synthesis for 3D Anomaly
Detection", ECCV 2024 workshops, arXiv 2410.09821. We know its abstract and no code: the
recipe below is ours, and the card `docs/systems/das3d.md` names every choice.

Each training step displaces depth smoothly and blends textures into the same pixels,
restores each modality with its own network, and segments original against
reconstruction with a U-Net that has an encoder for each modality. Augmentation dropout
spares one modality of some pairs, so that each is evidence by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ad3d_jax import losses
from ad3d_jax.base import Array, Batch, Scores, State, System, Train, Update
from ad3d_jax.nn import batch_norm
from ad3d_jax.nn.auto_encoder import AutoEncoder, scaled
from ad3d_jax.nn.paired_unet import PairedUNet
from ad3d_jax.nn.scope import Scope, scoring, training
from ad3d_jax.nn.unet import UNet
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.schedules import SCHEDULES, adam
from ad3d_jax.synthesis.anomalies import Anomalies
from ad3d_jax.synthesis.displacement import Displacement
from ad3d_jax.synthesis.paired import Pairing, alter_pair
from ad3d_jax.systems.fields import DTYPES, check_choices, check_counts
from ad3d_jax.systems.modalities import (
    CHANNELS,
    GEOMETRIES,
    captioned,
    gallery,
    map_size,
    modality_inputs,
    needed_fields,
)
from ad3d_jax.systems.textured import TEXTURES, Textured, init_state

MODALITIES = tuple(CHANNELS)
HYPER: Mapping[str, float] = {
    "learning_rate": 1e-4,
    "probability_normal": 0.5,
    "dropout_rgb": 0.3,
    "dropout_depth": 0.3,
    "probability_united": 0.1,
    "probability_apart": 0.1,
    "beta_max": 0.8,
    "amplitude_low": 0.05,
    "amplitude_high": 0.3,
    "skew": 4.0,
    "loss_rgb": 1.0,
    "loss_depth": 1.0,
    "loss_focal": 1.0,
    "loss_overlap": 1.0,
}


@dataclass(frozen=True)
class Config(Textured):
    """Structure of the system; a change of any field compiles anew."""

    geometry: str = "depth"  # depth | height, see systems.modalities
    reconstruction: str = "unet"  # unet (with skips) | auto_encoder (without)
    reconstruction_width: int = 64  # first width, doubled up to eight times
    reconstruction_levels: int = 5  # number of times that the image is halved
    discriminator_width: int = 32
    discriminator_levels: int = 4
    sigma: tuple[float, float] = (1.0, 6.0)  # of the skew-Gaussian filter, pixels
    epochs: int = 500


def das3d(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes.

    Raises:
        ValueError: a field of the configuration has an unknown value.
    """
    check(config)
    networks = build_networks(config)
    needs = needed_fields(MODALITIES, config.geometry)

    def init(key, batch):
        size = map_size(batch)
        shapes = {m: ((1, *size, CHANNELS[m]),) for m in MODALITIES}
        shapes["discriminator"] = ((1, *size, 6), (1, *size, 2))
        keys = jax.random.split(key, len(networks) + 1)
        return init_state(config, networks, shapes, HYPER, keys)

    def loss(keys, params, state, batch, across):
        """Reconstruction of both modalities, and focal and smooth L1 segmentation."""
        made = make_anomalies(config, keys, state, batch)
        scope = training(params, state, batch, across)
        out = forward(networks, scope, made.altered)
        truth = jnp.concatenate([1.0 - made.mask, made.mask], axis=-1)
        terms = {
            m: losses.reconstruction_map(made.clean[m], restored)
            for m, restored in out.reconstructions.items()
        }
        focal = losses.focal_loss(out.probabilities, made.mask[..., 0], alpha=None)
        overlap = optax.huber_loss(out.probabilities, truth)
        terms |= {"focal": focal, "overlap": jnp.mean(overlap, axis=-1)}
        info = {name: jnp.mean(term, axis=(1, 2)) for name, term in terms.items()}
        total = sum(state.hyper[f"loss_{name}"] * info[name] for name in terms)
        return total, scope.sums, {**info, "mask_area": made.area()}

    def optimizer(hyper, steps):
        return adam(config.schedule, hyper["learning_rate"], steps)

    def score(key, state, batch):
        """Returns the probability of an anomaly and its smoothed maximum."""
        inputs = modality_inputs(batch, MODALITIES, config.geometry)
        out = forward(networks, scoring(state), inputs)
        anomalous = out.probabilities[..., 1:]
        image = largest_mean(anomalous, config.score_window)
        parts = captioned("reconstruction", out.reconstructions, config.geometry)
        return Scores(anomalous, image, parts)

    train = Train(
        name="train",
        updates=(Update(loss, optimizer),),
        steps=0,
        epochs=config.epochs,
        fold=batch_norm.fold_modules,
    )
    return System(
        name="das3d",
        needs_fit=(*needs, "foreground"),
        needs_score=needs,
        init=init,
        phases=(train,),
        score=score,
        pretrained=(TEXTURES,),
        synthesise=gallery(partial(make_anomalies, config), config.geometry),
    )


def check(config: Config) -> None:
    """Raises ValueError where a field holds a value that no variant has."""
    allowed = {
        "geometry": GEOMETRIES,
        "reconstruction": ("unet", "auto_encoder"),
        "schedule": tuple(SCHEDULES),
        "dtype": DTYPES,
    }
    check_choices(config, allowed)
    if len(config.sigma) != 2 or not 0 < config.sigma[0] <= config.sigma[1]:
        raise ValueError(
            f"model.sigma: expected 0 < lowest <= highest, found {config.sigma}"
        )
    check_counts(config, "reconstruction_levels", "discriminator_levels", "epochs")


# --- The networks ---------------------------------------------------------------------


class Pass(NamedTuple):
    """One forward pass over a batch."""

    reconstructions: Mapping[str, Array]  # modality -> [B,H,W,C]
    probabilities: Array  # [B,H,W,2] of normal and anomalous


def build_networks(config: Config) -> dict:
    """Returns the modules by the names of their parameters, modalities first."""
    dtype = jnp.dtype(config.dtype)
    size = config.reconstruction_width, config.reconstruction_levels

    def restorer(channels: int):
        if config.reconstruction == "auto_encoder":
            return AutoEncoder(*scaled(*size), out_channels=channels, dtype=dtype)
        return UNet(unet_widths(*size), out_channels=channels, dtype=dtype)

    widths = unet_widths(config.discriminator_width, config.discriminator_levels)
    modules = {m: restorer(CHANNELS[m]) for m in MODALITIES}
    return {**modules, "discriminator": PairedUNet(widths, dtype=dtype)}


def unet_widths(width: int, levels: int) -> tuple[int, ...]:
    """Returns the widths of the way down, doubled three times at most as in DRAEM."""
    return tuple(width * min(2**level, 8) for level in range(levels + 1))


def forward(networks: Mapping, scope: Scope, inputs: Mapping[str, Array]) -> Pass:
    """Restores both modalities and compares them with what was given."""
    restored = {}
    for modality, image in inputs.items():
        output = scope.apply(modality, networks[modality], image)
        restored[modality] = output[0] if isinstance(output, tuple) else output
    pairs = [jnp.concatenate([inputs[m], restored[m]], axis=-1) for m in MODALITIES]
    logits = scope.apply("discriminator", networks["discriminator"], *pairs)
    return Pass(restored, jax.nn.softmax(logits, axis=-1))


# --- The anomalies --------------------------------------------------------------------


def make_anomalies(
    config: Config, keys: Array, state: State, batch: Batch
) -> Anomalies:
    """Returns the batch's pairs, some altered in shape, in colour or in both."""
    hyper = state.hyper
    low, high = config.sigma
    parameters = Pairing(
        p_normal=hyper["probability_normal"],
        p_drop_depth=hyper["dropout_depth"],
        p_drop_rgb=hyper["dropout_rgb"],
        p_united=hyper["probability_united"],
        p_apart=hyper["probability_apart"],
        beta_high=hyper["beta_max"],
        displacement=Displacement(
            sigma_low=low,
            sigma_high=high,
            skew=hyper["skew"],
            amplitude_low=hyper["amplitude_low"],
            amplitude_high=hyper["amplitude_high"],
        ),
    )
    return alter_pair(
        keys,
        modality_inputs(batch, MODALITIES, config.geometry),
        batch.foreground,
        state.frozen["textures"],
        parameters,
        reach=ceil(3 * high),
    )
