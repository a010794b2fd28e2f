"""DRAEM: a reconstruction and its discriminator, trained together on made anomalies.

V. Zavrtanik, M. Kristan, D. Skocaj, "DRAEM - A discriminatively trained reconstruction
embedding for surface anomaly detection", ICCV 2021, arXiv 2108.07610; the authors' code
is VitjanZ/DRAEM. Where the two differ the default is the code, and the card
`docs/systems/draem.md` names the difference.

Each training step blends textures into normal images on the device, restores them with
an auto-encoder, and segments the difference of input and reconstruction with a U-Net.
Depth, where it is used, is our extension.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax import losses
from ad3d_jax.base import Array, Scores, System, Train, Update, fold_each
from ad3d_jax.nn.auto_encoder import AutoEncoder, scaled
from ad3d_jax.nn.batch_norm import fold_modules
from ad3d_jax.nn.scope import Scope, scoring, training
from ad3d_jax.nn.unet import UNet, draem_widths
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.ops.ssim import ssim_map
from ad3d_jax.schedules import adam
from ad3d_jax.synthesis.rgbd import corrupt, corruption, rotate_images
from ad3d_jax.synthesis.textures import procedural_textures, single_colours
from ad3d_jax.systems.fields import SHARE, one_of, within
from ad3d_jax.systems.modalities import CHANNELS, Modalities, map_size
from ad3d_jax.systems.textured import TEXTURES, Textured, init_state

HYPER: Mapping[str, float] = {
    "learning_rate": 1e-4,
    "decay": 0.2,  # of the learning rate at each milestone
    "probability_normal": 0.5,
    "probability_single": 0.0,  # see synthesis.rgbd.Corruption
    "beta_max": 0.8,
    "probability_rotation": 0.3,
    "rotation": 90.0,  # degrees, both ways
    "loss_squared": 1.0,
    "loss_ssim": 1.0,
    "loss_focal": 1.0,
    "focal_gamma": 2.0,
}
DRAWN = {"images": procedural_textures, "colours": single_colours}


@dataclass(frozen=True)
class Config(Textured):
    """Structure of the system; a change of any field compiles anew."""

    modalities: tuple[str, ...] = one_of(("rgb",), ("rgb", "depth"), ("depth",))
    networks: str = one_of("both", "reconstruction", "discriminator")  # ablations
    reconstruction_width: int = 128  # of the first block
    reconstruction_levels: int = 4  # times the image is halved
    discriminator_width: int = 64  # of the first block
    discriminator_levels: int = 5
    texture: str = one_of(*DRAWN)
    # Of the schedule "step", by hyper.decay.
    milestones: tuple[float, ...] = within(SHARE, (0.8, 0.9))
    epochs: int = 700


def draem(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes."""
    networks = build_networks(config)
    seen = Modalities(config.modalities, "height")

    def init(key, batch):
        joined = seen.channels + sum(CHANNELS[m] for m in seen.names if m in networks)
        size = map_size(batch)
        shapes = {n: ((1, *size, CHANNELS.get(n, joined)),) for n in networks}
        keys = jax.random.split(key, len(networks) + 1)
        draw = DRAWN[config.texture]
        return init_state(config, networks, shapes, HYPER, keys, draw)

    def make_anomalies(keys, state, batch):
        """Returns samples, some turned, some with a blended texture (paper §3.3)."""
        hyper, textures = state.hyper, state.frozen["textures"]
        whole = jnp.ones((len(keys), *map_size(batch), 1))
        clean, _ = rotate_images(
            fold_each(keys, 0),
            seen.inputs(batch),
            whole,
            hyper["rotation"],
            hyper["probability_rotation"],
            fill="zero",
        )
        return corrupt(fold_each(keys, 1), clean, whole, textures, corruption(hyper))

    def loss(keys, params, state, batch, across):
        """Squared error, 1 - SSIM and focal loss, Eq. (1), (3) and (4)."""
        hyper, made = state.hyper, make_anomalies(keys, state, batch)
        scope = training(params, state, batch, across)
        out = forward(networks, scope, made.altered)
        info, total = {}, jnp.zeros(batch.weight.shape)
        for modality, restored in out.reconstructions.items():
            clean = made.clean[modality]
            squared = jnp.mean(jnp.square(restored - clean), axis=(1, 2, 3))
            dissimilar = 1.0 - jnp.mean(ssim_map(clean, restored), axis=(1, 2, 3))
            info |= {f"squared_{modality}": squared, f"ssim_{modality}": dissimilar}
            total += hyper["loss_squared"] * squared + hyper["loss_ssim"] * dissimilar
        if out.probabilities is not None:
            focal = losses.focal_loss(
                out.probabilities, made.mask[..., 0], hyper["focal_gamma"], alpha=None
            )
            info["focal"] = jnp.mean(focal, axis=(1, 2))
            total += hyper["loss_focal"] * info["focal"]
        return total, scope.sums, {**info, "mask_area": made.area()}

    def optimizer(hyper, steps):
        decay = {"factor": hyper["decay"], "milestones": config.milestones}
        return adam(config.schedule, hyper["learning_rate"], steps, **decay)

    def score(key, state, batch):
        """Returns the probability of an anomaly and its smoothed maximum."""
        out = forward(networks, scoring(state), seen.inputs(batch))
        image = largest_mean(out.map[..., None], config.score_window)
        parts = seen.captioned("reconstruction", out.reconstructions)
        return Scores(out.map[..., None], image, parts)

    updates = (Update(loss, optimizer),)
    return System(
        name="draem",
        needs_fit=seen.needs,
        needs_score=seen.needs,
        init=init,
        phases=(Train("train", updates, 0, epochs=config.epochs, fold=fold_modules),),
        score=score,
        pretrained=(TEXTURES,),
        synthesise=seen.gallery(make_anomalies),
    )


# --- The networks ---------------------------------------------------------------------


class Pass(NamedTuple):
    """One forward pass over a batch."""

    reconstructions: Mapping[str, Array]  # modality -> [B,H,W,C]
    map: Array  # [B,H,W] float32, anomaly score
    probabilities: Array | None  # [B,H,W,2], where there is a discriminator


def build_networks(config: Config) -> dict:
    """Returns the modules by the names of their parameters: modalities first."""
    dtype = jnp.dtype(config.dtype)
    widths, stages = scaled(config.reconstruction_width, config.reconstruction_levels)
    modules = {}
    if config.networks != "discriminator":
        for modality in config.modalities:
            modules[modality] = AutoEncoder(
                widths, stages, CHANNELS[modality], dtype=dtype
            )
    if config.networks != "reconstruction":
        widths = draem_widths(config.discriminator_width, config.discriminator_levels)
        modules["discriminator"] = UNet(widths, dtype=dtype)
    return modules


def forward(networks: Mapping, scope: Scope, inputs: Mapping[str, Array]) -> Pass:
    """Restores each modality and segments [reconstructions, inputs] together.

    Without a discriminator the map is 1 - SSIM, without a reconstruction the
    discriminator sees the inputs alone: the paper's ablations.
    """
    restored = {
        modality: scope.apply(modality, networks[modality], image)[0]
        for modality, image in inputs.items()
        if modality in networks
    }
    if "discriminator" not in networks:
        similarity = [
            jnp.mean(ssim_map(inputs[m], restored[m]), axis=-1) for m in restored
        ]
        return Pass(restored, 1.0 - sum(similarity) / len(similarity), None)
    joined = jnp.concatenate([*restored.values(), *inputs.values()], axis=-1)
    logits = scope.apply("discriminator", networks["discriminator"], joined)
    probabilities = jax.nn.softmax(logits, axis=-1)
    return Pass(restored, probabilities[..., 1], probabilities)
