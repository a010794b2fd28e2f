"""DAS3D: paired anomalies of shape and colour, restored and compared in both.

K. Li, B. Dai, J. Fu, X. Hou, "DAS3D: Dual-modality Anomaly Synthesis for 3D Anomaly
Detection", ECCV 2024 workshops, arXiv 2410.09821. We know its abstract, summaries of
it and no code: the recipe below is ours, and the card `docs/systems/das3d.md` names
every choice.

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
from ad3d_jax.nn.auto_encoder import AutoEncoder, scaled
from ad3d_jax.nn.batch_norm import fold_modules
from ad3d_jax.nn.paired_unet import PairedUNet
from ad3d_jax.nn.scope import Scope, scoring, training
from ad3d_jax.nn.unet import UNet, draem_widths
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.schedules import adam
from ad3d_jax.synthesis.anomalies import Anomalies
from ad3d_jax.synthesis.paired import alter_pair, pairing
from ad3d_jax.systems.fields import at_least, one_of
from ad3d_jax.systems.modalities import CHANNELS, GEOMETRIES, Modalities, map_size
from ad3d_jax.systems.textured import TEXTURES, Textured, init_state

MODALITIES = ("rgb", "depth")
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

    geometry: str = one_of(*GEOMETRIES)  # see systems.modalities
    reconstruction: str = one_of("unet", "auto_encoder")  # with skips, without
    reconstruction_width: int = 64  # first width, doubled up to eight times
    reconstruction_levels: int = at_least(1, 5)  # number of times the image is halved
    discriminator_width: int = 32
    discriminator_levels: int = at_least(1, 4)
    sigma: tuple[float, float] = (1.0, 6.0)  # of the skew-Gaussian filter, pixels
    epochs: int = at_least(1, 500)

    def __post_init__(self):
        super().__post_init__()
        if len(self.sigma) != 2 or not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(
                f"model.sigma: expected 0 < lowest <= highest, found {self.sigma}"
            )


def das3d(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes."""
    networks = build_networks(config)
    seen = Modalities(MODALITIES, config.geometry)

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
        out = forward(networks, scoring(state), seen.inputs(batch))
        anomalous = out.probabilities[..., 1:]
        image = largest_mean(anomalous, config.score_window)
        parts = seen.captioned("reconstruction", out.reconstructions)
        return Scores(anomalous, image, parts)

    updates = (Update(loss, optimizer),)
    train = Train("train", updates, 0, epochs=config.epochs, fold=fold_modules)
    return System(
        name="das3d",
        needs_fit=(*seen.needs, "foreground"),
        needs_score=seen.needs,
        init=init,
        phases=(train,),
        score=score,
        pretrained=(TEXTURES,),
        synthesise=seen.gallery(partial(make_anomalies, config)),
    )


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
        return UNet(draem_widths(*size), out_channels=channels, dtype=dtype)

    widths = draem_widths(config.discriminator_width, config.discriminator_levels)
    modules = {m: restorer(CHANNELS[m]) for m in MODALITIES}
    return {**modules, "discriminator": PairedUNet(widths, dtype=dtype)}


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
    return alter_pair(
        keys,
        Modalities(MODALITIES, config.geometry).inputs(batch),
        batch.foreground,
        state.frozen["textures"],
        pairing(state.hyper, config.sigma),
        reach=ceil(3 * config.sigma[1]),
    )
