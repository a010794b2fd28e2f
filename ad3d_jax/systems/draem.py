"""DRAEM: a reconstruction and its judge, trained together on synthetic anomalies.

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
from functools import partial
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
    fold_each,
)
from ad3d_jax.nn import batch_norm
from ad3d_jax.nn.auto_encoder import AutoEncoder, scaled
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.scope import Scope, scoring
from ad3d_jax.nn.unet import UNet
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.ops.ssim import ssim_map
from ad3d_jax.schedules import SCHEDULES
from ad3d_jax.synthesis.pictures import name_pictures
from ad3d_jax.synthesis.rgbd import Corruption, corrupt, rotate_pair
from ad3d_jax.synthesis.textures import procedural_textures
from ad3d_jax.systems.choices import check_choices

CHANNELS = {"rgb": 3, "depth": 1}
FIELDS = {"rgb": "rgb", "depth": "extras.height_normalised"}
# What a modality's pictures show: normalised depth is height over the table.
PICTURES = {"rgb": "rgb", "depth": "height"}
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


@dataclass(frozen=True)
class Config:
    """Structure of the system; a change of any field compiles anew."""

    modalities: tuple[str, ...] = ("rgb",)
    networks: str = "both"  # both | reconstruction | discriminator (ablations)
    reconstruction_width: int = 128  # of the first block
    reconstruction_levels: int = 4  # times the image is halved
    discriminator_width: int = 64  # of the first block
    discriminator_levels: int = 5
    texture: str = "pictures"  # pictures | colours
    textures: int = 64  # procedural textures, unless a folder is given
    texture_size: int = 256  # side of a texture, pixels
    schedule: str = "step"  # step (hyper.decay at each milestone) | cosine
    milestones: tuple[float, ...] = (0.8, 0.9)  # shares of the steps
    epochs: int = 700
    score_window: int = 21  # side of the mean filter before the image maximum, pixels
    dtype: str = "float32"  # compute type; parameters and statistics stay float32


class Anomalies(NamedTuple):
    """Clean samples and what the networks see of them in training."""

    clean: Mapping[str, Array]  # modality -> [B,H,W,C]
    altered: Mapping[str, Array]
    mask: Array  # [B,H,W,1] float32, altered pixels


class Pass(NamedTuple):
    """One forward pass over a batch."""

    reconstructions: Mapping[str, Array]  # modality -> [B,H,W,C]
    map: Array  # [B,H,W] float32, anomaly score
    probabilities: Array | None  # [B,H,W,2], where there is a discriminator
    sums: Tree  # statistics of the batch norms, by network


def draem(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes.

    Raises:
        ValueError: a field of the configuration has an unknown value.
    """
    check(config)
    needs = tuple(FIELDS[modality] for modality in config.modalities)
    networks = build_networks(config)
    train = Train(
        name="train",
        updates=(Update(partial(loss, config, networks), partial(optimizer, config)),),
        steps=0,
        epochs=config.epochs,
        fold=batch_norm.fold_modules,
    )
    return System(
        name="draem",
        needs_fit=needs,
        needs_score=needs,
        init=partial(init, config, networks),
        phases=(train,),
        score=partial(score, config, networks),
        synthesise=partial(synthesise, config),
    )


def check(config: Config) -> None:
    """Raises ValueError where a field holds a value that no variant has."""
    allowed = {
        "modalities": (("rgb",), ("rgb", "depth"), ("depth",)),
        "networks": ("both", "reconstruction", "discriminator"),
        "texture": ("pictures", "colours"),
        "schedule": tuple(SCHEDULES),
        "dtype": ("float32", "bfloat16"),
    }
    check_choices(config, allowed)


# --- The networks ---------------------------------------------------------------------


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
        levels = range(config.discriminator_levels + 1)
        widths = tuple(config.discriminator_width * min(2**i, 8) for i in levels)
        modules["discriminator"] = UNet(widths, dtype=dtype)
    return modules


def init(config: Config, networks: Mapping, key: Array, batch: Batch) -> State:
    """Returns fresh parameters, batch statistics, random textures and constants."""
    inputs = modality_inputs(config, batch)
    size = next(iter(inputs.values())).shape[1:3]
    count = {name: CHANNELS[name] for name in networks if name in CHANNELS}
    seen = sum(count.values()) + sum(CHANNELS[m] for m in config.modalities)

    def build(key):
        keys = iter(jax.random.split(key, len(networks) + 1))
        variables = {
            name: module.init(
                next(keys), jnp.zeros((1, *size, count.get(name, seen))), train=False
            )
            for name, module in networks.items()
        }
        if config.texture == "colours":
            bank = jax.random.randint(next(keys), (config.textures, 1, 1, 3), 0, 256)
            return variables, bank.astype(jnp.uint8)
        bank = procedural_textures(next(keys), config.textures, config.texture_size)
        return variables, bank

    variables, textures = initialise(build, key)
    stats = {name: v["batch_stats"] for name, v in variables.items()}
    return State(
        params={name: v["params"] for name, v in variables.items()},
        frozen={"textures": textures},
        extra={"batch_stats": stats},
        hyper={name: jnp.float32(value) for name, value in HYPER.items()},
    )


def modality_inputs(config: Config, batch: Batch) -> dict[str, Array]:
    """Returns the network inputs by modality, each [B,H,W,C]."""
    fields = {"rgb": batch.rgb, "depth": batch.extras.get("height_normalised")}
    return {m: fields[m] for m in config.modalities}


def forward(networks: Mapping, scope: Scope, inputs: Mapping[str, Array]) -> Pass:
    """Restores each modality and judges [reconstructions, inputs] together.

    Without a discriminator the map is 1 - SSIM, without a reconstruction the
    discriminator sees the inputs alone: the paper's ablations.
    """
    sums: dict = {}
    restored = {}
    for modality, image in inputs.items():
        if modality in networks:
            restored[modality], _ = scope.apply(
                sums, modality, networks[modality], image, weight=scope.weight
            )
    if "discriminator" not in networks:
        similarity = [
            jnp.mean(ssim_map(inputs[m], restored[m]), axis=-1) for m in restored
        ]
        return Pass(restored, 1.0 - sum(similarity) / len(similarity), None, sums)
    joined = jnp.concatenate([*restored.values(), *inputs.values()], axis=-1)
    logits = scope.apply(
        sums,
        "discriminator",
        networks["discriminator"],
        joined,
        weight=scope.weight,
    )
    probabilities = jax.nn.softmax(logits, axis=-1)
    return Pass(restored, probabilities[..., 1], probabilities, sums)


# --- Training -------------------------------------------------------------------------


def make_anomalies(
    config: Config, keys: Array, state: State, batch: Batch
) -> Anomalies:
    """Returns samples, some turned, some with a blended texture (paper §3.3)."""
    hyper = state.hyper
    clean = modality_inputs(config, batch)
    whole = jnp.ones((*next(iter(clean.values())).shape[:3], 1))
    rgb, depth, _ = rotate_pair(
        fold_each(keys, 0),
        clean.get("rgb"),
        clean.get("depth"),
        whole,
        hyper["rotation"],
        hyper["probability_rotation"],
        fill="zero",
    )
    corruption = Corruption(
        p_normal=hyper["probability_normal"],
        p_cut_out=0.0,
        p_single=hyper["probability_single"],
        beta_high=hyper["beta_max"],
    )
    textures = state.frozen["textures"]
    made = corrupt(fold_each(keys, 1), rgb, depth, whole, textures, corruption)
    turned = {"rgb": rgb, "depth": depth}
    return Anomalies(
        {m: turned[m] for m in clean}, {m: getattr(made, m) for m in clean}, made.mask
    )


def synthesise(
    config: Config, keys: Array, state: State, batch: Batch
) -> Mapping[str, Array]:
    """Returns pictures of what the loss trains on, see `base.System`."""
    made = make_anomalies(config, keys, state, batch)
    return name_pictures(made.mask, made.clean, made.altered, PICTURES)


def loss(
    config: Config,
    networks: Mapping,
    keys: Array,
    params: Tree,
    state: State,
    batch: Batch,
    across: Across,
) -> tuple[Array, Tree, Mapping[str, Array]]:
    """Squared error, 1 - SSIM and focal loss, Eq. (1), (3) and (4)."""
    hyper = state.hyper
    made = make_anomalies(config, keys, state, batch)
    scope = Scope(params, state.extra["batch_stats"], True, batch.weight, across)
    out = forward(networks, scope, made.altered)
    info = {}
    total = jnp.zeros(batch.weight.shape)
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
    info["mask_area"] = jnp.mean(made.mask, axis=(1, 2, 3))
    return total, out.sums, info


def optimizer(
    config: Config, hyper: Mapping[str, Array], steps: int
) -> optax.GradientTransformation:
    """Adam under one schedule."""
    options = {}
    if config.schedule == "step":
        options = {"factor": hyper["decay"], "milestones": config.milestones}
    schedule = SCHEDULES[config.schedule]
    return optax.adam(schedule(hyper["learning_rate"], steps, **options))


# --- Scoring --------------------------------------------------------------------------


def score(
    config: Config, networks: Mapping, key: Array, state: State, batch: Batch
) -> Scores:
    """Returns the probability of an anomaly and its smoothed maximum."""
    del key  # nothing is random at test time
    scope = scoring(state.params, state.extra["batch_stats"])
    out = forward(networks, scope, modality_inputs(config, batch))
    image = largest_mean(out.map[..., None], config.score_window)
    parts = {
        f"reconstruction_{PICTURES[m]}": restored
        for m, restored in out.reconstructions.items()
    }
    return Scores(out.map[..., None], image, parts)
