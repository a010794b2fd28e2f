"""DAS3D: paired anomalies of shape and colour, restored and judged by both modalities.

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
from ad3d_jax.base import (
    Across,
    Array,
    Batch,
    Scores,
    State,
    System,
    Train,
    Tree,
    Update,
)
from ad3d_jax.nn import batch_norm
from ad3d_jax.nn.auto_encoder import AutoEncoder, scaled
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.paired_unet import PairedUNet
from ad3d_jax.nn.scope import Scope, scoring
from ad3d_jax.nn.unet import UNet
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.schedules import SCHEDULES
from ad3d_jax.synthesis.displacement import Displacement
from ad3d_jax.synthesis.paired import Pair, Pairing, alter_pair
from ad3d_jax.synthesis.pictures import name_pictures
from ad3d_jax.synthesis.textures import procedural_textures
from ad3d_jax.systems.choices import check_choices


@dataclass(frozen=True)
class Config:
    """Structure of the system; a change of any field compiles anew."""

    reconstruction: str = "unet"  # unet (with skips) | auto_encoder (without)
    reconstruction_width: int = 64  # first width, doubled up to eight times
    reconstruction_levels: int = 5  # number of times that the image is halved
    discriminator_width: int = 32
    discriminator_levels: int = 4
    sigma: tuple[float, float] = (1.0, 6.0)  # of the skew-Gaussian filter, pixels
    textures: int = 64  # procedural textures, unless a folder is given
    texture_size: int = 256  # side of a texture, pixels
    schedule: str = "step"  # step (x0.2 at 80 % and 90 %) | cosine (50 warm-up steps)
    epochs: int = 500
    score_window: int = 21  # side of the mean filter before the image maximum, pixels
    dtype: str = "float32"  # compute type; parameters and statistics stay float32


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


class Networks(NamedTuple):
    """Modules by the names of their parameters."""

    rgb: object
    depth: object
    discriminator: PairedUNet


class Pass(NamedTuple):
    """One forward pass over a batch."""

    rgb: Array  # [B,H,W,3] reconstruction
    depth: Array  # [B,H,W,1]
    probabilities: Array  # [B,H,W,2] of normal and anomalous
    sums: Tree  # statistics of the batch norms, by network


def das3d(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes.

    Raises:
        ValueError: a field of the configuration has an unknown value.
    """
    check(config)
    networks = build_networks(config)
    needs = ("rgb", "extras.depth_normalised")
    update = Update(
        loss=partial(loss, config, networks), optimizer=partial(optimizer, config)
    )
    train = Train(
        name="train",
        updates=(update,),
        steps=0,
        epochs=config.epochs,
        fold=batch_norm.fold_modules,
    )
    return System(
        name="das3d",
        needs_fit=(*needs, "foreground"),
        needs_score=needs,
        init=partial(init, config, networks),
        phases=(train,),
        score=partial(score, config, networks),
        synthesise=partial(synthesise, config),
    )


def check(config: Config) -> None:
    """Raises ValueError where a field holds a value that no variant has."""
    allowed = {
        "reconstruction": ("unet", "auto_encoder"),
        "schedule": tuple(SCHEDULES),
        "dtype": ("float32", "bfloat16"),
    }
    check_choices(config, allowed)
    if len(config.sigma) != 2 or not 0 < config.sigma[0] <= config.sigma[1]:
        raise ValueError(
            f"model.sigma: expected 0 < lowest <= highest, found {config.sigma}"
        )
    for name in ("reconstruction_levels", "discriminator_levels", "epochs"):
        value = getattr(config, name)
        if value < 1:
            raise ValueError(f"model.{name}: expected at least 1, found {value}")


def build_networks(config: Config) -> Networks:
    """Returns the modules of the variant, unbound to parameters."""
    dtype = jnp.dtype(config.dtype)
    size = config.reconstruction_width, config.reconstruction_levels

    def restorer(channels: int):
        if config.reconstruction == "auto_encoder":
            return AutoEncoder(*scaled(*size), out_channels=channels, dtype=dtype)
        return UNet(unet_widths(*size), out_channels=channels, dtype=dtype)

    widths = unet_widths(config.discriminator_width, config.discriminator_levels)
    return Networks(restorer(3), restorer(1), PairedUNet(widths, dtype=dtype))


def unet_widths(width: int, levels: int) -> tuple[int, ...]:
    """Returns the widths of the way down, doubled three times at most as in DRAEM."""
    return tuple(width * min(2**level, 8) for level in range(levels + 1))


# --- The phase ------------------------------------------------------------------------


def init(config: Config, networks: Networks, key: Array, batch: Batch) -> State:
    """Returns fresh parameters, batch statistics, procedural textures and constants."""
    size = batch.rgb.shape[1:3]
    channels = {"rgb": (3,), "depth": (1,), "discriminator": (6, 2)}

    def build(key):
        keys = iter(jax.random.split(key, len(networks) + 1))
        variables = {
            name: module.init(
                next(keys),
                *(jnp.zeros((1, *size, c)) for c in channels[name]),
                train=False,
            )
            for name, module in networks._asdict().items()
        }
        textures = procedural_textures(next(keys), config.textures, config.texture_size)
        return variables, textures

    variables, textures = initialise(build, key)
    return State(
        params={name: v["params"] for name, v in variables.items()},
        frozen={"textures": textures},
        extra={"batch_stats": {n: v["batch_stats"] for n, v in variables.items()}},
        hyper={name: jnp.float32(value) for name, value in HYPER.items()},
    )


def make_anomalies(config: Config, keys: Array, state: State, batch: Batch) -> Pair:
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
        batch.rgb,
        batch.extras["depth_normalised"],
        batch.foreground,
        state.frozen["textures"],
        parameters,
        reach=ceil(3 * high),
    )


def synthesise(
    config: Config, keys: Array, state: State, batch: Batch
) -> Mapping[str, Array]:
    """Returns pictures of what the loss trains on, see `base.System`."""
    made = make_anomalies(config, keys, state, batch)
    clean = {"rgb": batch.rgb, "depth": batch.extras["depth_normalised"]}
    return name_pictures(made.mask, clean, {"rgb": made.rgb, "depth": made.depth})


def loss(
    config: Config,
    networks: Networks,
    keys: Array,
    params: Tree,
    state: State,
    batch: Batch,
    across: Across,
) -> tuple[Array, Tree, Mapping[str, Array]]:
    """Reconstruction of both modalities, and focal and smooth L1 segmentation."""
    made = make_anomalies(config, keys, state, batch)
    scope = Scope(params, state.extra["batch_stats"], True, batch.weight, across)
    out = forward(networks, scope, made.rgb, made.depth)

    truth = jnp.concatenate([1.0 - made.mask, made.mask], axis=-1)
    focal = losses.focal_loss(out.probabilities, made.mask[..., 0], alpha=None)
    overlap = optax.huber_loss(out.probabilities, truth)
    depth = batch.extras["depth_normalised"]
    terms = {
        "rgb": losses.reconstruction_map(batch.rgb, out.rgb),
        "depth": losses.reconstruction_map(depth, out.depth),
        "focal": focal,
        "overlap": jnp.mean(overlap, axis=-1),
    }
    info = {name: jnp.mean(term, axis=(1, 2)) for name, term in terms.items()}
    total = sum(state.hyper[f"loss_{name}"] * info[name] for name in terms)
    info["mask_area"] = jnp.mean(made.mask, axis=(1, 2, 3))
    return total, out.sums, info


def forward(networks: Networks, scope: Scope, rgb: Array, depth: Array) -> Pass:
    """Restores both modalities and compares them with what was given.

    Args:
        networks: modules of `build_networks`.
        scope: parameters and statistics.
        rgb: [B,H,W,3], altered while training.
        depth: [B,H,W,1] likewise.
    """
    sums: dict = {}
    apply = partial(scope.apply, sums, weight=scope.weight)

    def restore(name: str, x: Array) -> Array:
        output = apply(name, getattr(networks, name), x)
        return output[0] if isinstance(output, tuple) else output

    new_rgb, new_depth = restore("rgb", rgb), restore("depth", depth)
    logits = apply(
        "discriminator",
        networks.discriminator,
        jnp.concatenate([rgb, new_rgb], axis=-1),
        jnp.concatenate([depth, new_depth], axis=-1),
    )
    return Pass(new_rgb, new_depth, jax.nn.softmax(logits, axis=-1), sums)


def optimizer(
    config: Config, hyper: Mapping[str, Array], steps: int
) -> optax.GradientTransformation:
    """Adam over all networks at once."""
    return optax.adam(SCHEDULES[config.schedule](hyper["learning_rate"], steps))


# --- Scoring --------------------------------------------------------------------------


def score(
    config: Config, networks: Networks, key: Array, state: State, batch: Batch
) -> Scores:
    """Returns the probability of an anomaly and its smoothed maximum, row by row."""
    scope = scoring(state.params, state.extra["batch_stats"])
    out = forward(networks, scope, batch.rgb, batch.extras["depth_normalised"])
    anomalous = out.probabilities[..., 1:]
    image = largest_mean(anomalous, config.score_window)
    parts = {"reconstruction_rgb": out.rgb, "reconstruction_depth": out.depth}
    return Scores(anomalous, image, parts)
