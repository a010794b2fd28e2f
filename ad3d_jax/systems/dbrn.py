"""DBRN: dual-branch reconstruction of RGB and depth, judged by one discriminator.

C. Bi, Y. Li, H. Luo, "Dual-Branch Reconstruction Network for Industrial Anomaly
Detection with RGB-D Data", arXiv 2311.06797. No official code is known; where the paper
is silent the card `docs/systems/dbrn.md` names our choice.

Each training step corrupts normal samples on the device, restores them with one network
a modality at several scales, and segments what was restored: the discriminator compares
input and reconstruction of both modalities after an importance scoring module has
weighted them.
"""

from collections.abc import Mapping
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
    sample_keys,
)
from ad3d_jax.nn import batch_norm
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.res_unet import ResUnet
from ad3d_jax.nn.scope import Scope, scoring
from ad3d_jax.nn.swin_unet import SwinUnet
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.schedules import SCHEDULES
from ad3d_jax.synthesis.pictures import name_pictures
from ad3d_jax.synthesis.rgbd import Corruption, corrupt, rotate_pair
from ad3d_jax.synthesis.textures import procedural_textures
from ad3d_jax.systems.choices import check_choices
from ad3d_jax.systems.dbrn_networks import (
    CHANNELS,
    Config,
    Networks,
    build_networks,
    forward,
)

SCALE_NAMES = ("full", "quarter", "eighth")
HYPER: Mapping[str, float] = {
    "learning_rate_reconstruction": 1e-4,
    "learning_rate_discriminator": 1e-4,
    "learning_rate_importance": 1e-3,
    "probability_normal": 0.5,
    "probability_cut_out": 0.25,
    "probability_single": 0.0,
    "beta_max": 0.8,
    "probability_identical_rgb": 0.25,
    "probability_identical_depth": 0.25,
    "focal_alpha": 0.75,
    "loss_rgb": 1.0,
    "loss_depth": 1.0,
    "loss_focal": 1.0,
}

# What a modality's reconstruction shows: normalised depth is height over the table.
PICTURES = {"rgb": "rgb", "depth": "height"}
# What a parameter group learns with; the paper uses three learning rates.
RATES = {
    "rgb": "reconstruction",
    "depth": "reconstruction",
    "pair_embed": "discriminator",
    "discriminator": "discriminator",
    "fusion": "importance",
}


def dbrn(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes.

    Raises:
        ValueError: a field of the configuration has an unknown value.
    """
    check(config)
    networks = build_networks(config)
    depth_field = "extras.height_normalised"
    needs = tuple({"rgb": "rgb", "depth": depth_field}[m] for m in config.modalities)
    train = Train(
        name="train",
        updates=(
            Update(
                loss=partial(loss, config, networks),
                optimizer=partial(optimizer, config),
            ),
        ),
        steps=config.steps,
        fold=batch_norm.fold_modules,
    )
    return System(
        name="dbrn",
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
        "modalities": (("rgb", "depth"), ("rgb",), ("depth",)),
        "reconstruction": ("swin", "res_unet"),
        "discriminator": ("unet", "swin"),
        "fusion": ("importance", "early", "hadamard", "concat"),
        "schedule": tuple(SCHEDULES),
        "scales": (1, 3),
        "dtype": ("float32", "bfloat16"),
    }
    check_choices(config, allowed)
    if config.fusion == "early" and len(config.modalities) == 1:
        raise ValueError("model.fusion=early joins two modalities, found one")


# --- The phase ------------------------------------------------------------------------


def init(config: Config, networks: Networks, key: Array, batch: Batch) -> State:
    """Returns fresh parameters, batch statistics, procedural textures and constants."""
    height, width = (
        batch.foreground.shape[1:3] if batch.rgb is None else (batch.rgb.shape[1:3])
    )
    half = -(-height // config.pair_stride), -(-width // config.pair_stride)
    features = config.discriminator_width
    shapes = {m: ((1, height, width, CHANNELS[m]),) for m in networks.reconstruction}
    modules = dict(networks.reconstruction)
    if networks.pair_embed is not None:
        modules["pair_embed"] = networks.pair_embed
        shapes["pair_embed"] = ((1, height, width, 2),)
    if networks.fusion is not None:
        modules["fusion"] = networks.fusion
        shapes["fusion"] = ((1, *half, features),) * 2
    modules["discriminator"] = networks.discriminator
    if config.fusion == "early":
        shapes["discriminator"] = ((1, height, width, 8),)
    else:
        shapes["discriminator"] = ((1, *half, features),)

    def build(key):
        keys = iter(jax.random.split(key, len(modules) + 1))
        variables = {
            name: module.init(
                next(keys),
                *(jnp.zeros(shape) for shape in shapes[name]),
                train=False,
                **({"keys": None} if takes_keys(module) else {}),
            )
            for name, module in modules.items()
        }
        textures = procedural_textures(next(keys), config.textures, config.texture_size)
        return variables, textures

    variables, textures = initialise(build, key)
    return State(
        params={name: v["params"] for name, v in variables.items()},
        frozen={"textures": textures},
        extra={
            "batch_stats": {
                name: v["batch_stats"]
                for name, v in variables.items()
                if "batch_stats" in v
            }
        },
        hyper={name: jnp.float32(value) for name, value in HYPER.items()},
    )


def takes_keys(module) -> bool:
    """Returns whether a module has dropout."""
    return isinstance(module, SwinUnet | ResUnet)


class Anomalies(NamedTuple):
    """Clean samples and what the networks see of them in training."""

    clean: Mapping[str, Array]  # modality -> [B,H,W,C]
    altered: Mapping[str, Array]
    foreground: Array  # [B,H,W,1] float32
    mask: Array  # [B,H,W,1] float32, altered pixels


def make_anomalies(
    config: Config, keys: Array, state: State, batch: Batch
) -> Anomalies:
    """Returns samples, turned, some with a cut-out or a blended texture, Eq. (1)."""
    hyper = state.hyper
    clean = modality_inputs(config, batch)
    foreground = batch.foreground.astype(jnp.float32)
    if config.rotation:
        rgb, depth, foreground = rotate_pair(
            fold_each(keys, 3),
            clean.get("rgb"),
            clean.get("depth"),
            foreground,
            config.rotation,
        )
        clean = {m: x for m, x in (("rgb", rgb), ("depth", depth)) if x is not None}
    corruption = Corruption(
        p_normal=hyper["probability_normal"],
        p_cut_out=hyper["probability_cut_out"],
        p_single=hyper["probability_single"],
        beta_high=hyper["beta_max"],
    )
    made = corrupt(
        fold_each(keys, 0),
        clean.get("rgb"),
        clean.get("depth"),
        foreground,
        state.frozen["textures"],
        corruption,
    )
    altered = {m: getattr(made, m) for m in config.modalities}
    return Anomalies(clean, altered, foreground, made.mask)


def synthesise(
    config: Config, keys: Array, state: State, batch: Batch
) -> Mapping[str, Array]:
    """Returns pictures of what the loss trains on, see `base.System`."""
    made = make_anomalies(config, keys, state, batch)
    return name_pictures(made.mask, made.clean, made.altered, PICTURES)


def loss(
    config: Config,
    networks: Networks,
    keys: Array,
    params: Tree,
    state: State,
    batch: Batch,
    across: Across,
) -> tuple[Array, Tree, Mapping[str, Array]]:
    """Reconstruction of both modalities plus focal segmentation, Eq. (5)."""
    hyper = state.hyper
    made = make_anomalies(config, keys, state, batch)
    identical = None
    if len(config.modalities) == 2:
        draw = jax.vmap(jax.random.uniform)(fold_each(keys, 1))
        rgb, depth = (hyper[f"probability_identical_{m}"] for m in ("rgb", "depth"))
        identical = {
            "rgb": draw < rgb,
            "depth": (draw >= rgb) & (draw < rgb + depth),
        }
    scope = Scope(params, state.extra["batch_stats"], True, batch.weight, across)
    out = forward(config, networks, scope, made.altered, fold_each(keys, 2), identical)

    info = {}
    total = jnp.zeros(batch.weight.shape)
    for modality, scales in out.reconstructions.items():
        terms = [
            losses.set_weighted_reconstruction(
                made.clean[modality],
                reconstruction,
                made.foreground,
                made.mask,
                lambda_f=config.lambda_f,
                lambda_m=config.lambda_m,
            )
            for reconstruction in scales
        ]
        info[f"reconstruction_{modality}"] = sum(terms) / len(terms)
        total = total + hyper[f"loss_{modality}"] * info[f"reconstruction_{modality}"]
    alpha = hyper["focal_alpha"]
    focal = losses.focal_loss(
        out.maps, made.mask[None, ..., 0], alpha=(1.0 - alpha, alpha)
    )
    info["focal"] = jnp.mean(focal, axis=(0, 2, 3))
    total = total + hyper["loss_focal"] * info["focal"]
    info["mask_area"] = jnp.mean(made.mask, axis=(1, 2, 3))
    return total, out.sums, info


def optimizer(
    config: Config, hyper: Mapping[str, Array], steps: int
) -> optax.GradientTransformation:
    """Adam with three learning rates under one schedule (paper §4.1; sheet §5)."""

    def adam(group):
        rate = hyper[f"learning_rate_{group}"]
        return optax.adam(SCHEDULES[config.schedule](rate, steps))

    groups = sorted(set(RATES.values()))
    return optax.partition(
        {group: adam(group) for group in groups},
        lambda params: {
            name: jax.tree.map(lambda _, name=name: RATES[name], tree)
            for name, tree in params.items()
        },
    )


def modality_inputs(config: Config, batch: Batch) -> dict[str, Array]:
    """Returns the network inputs by modality, each [B,H,W,C]."""
    fields = {"rgb": batch.rgb, "depth": batch.extras.get("height_normalised")}
    return {m: fields[m] for m in config.modalities}


# --- Scoring --------------------------------------------------------------------------


def score(
    config: Config, networks: Networks, key: Array, state: State, batch: Batch
) -> Scores:
    """Returns the mean map over scales and its smoothed maximum, row by row."""
    inputs = modality_inputs(config, batch)
    keys = sample_keys(key, batch)
    scope = scoring(state.params, state.extra["batch_stats"])
    passes = [
        forward(config, networks, scope, inputs, fold_each(keys, number))
        for number in range(config.passes)
    ]
    per_scale = sum(p.maps[..., 1:] for p in passes) / len(passes)
    fused = jnp.mean(per_scale, axis=0)
    parts = {}
    last = passes[-1]
    for number in range(config.scales):
        name = SCALE_NAMES[number]
        if config.scales > 1:
            parts[f"map_{name}"] = per_scale[number]
        for modality, scales in last.reconstructions.items():
            shown = PICTURES[modality]
            parts[f"reconstruction_{shown}_{name}"] = scales[number]
    if last.weights is not None:
        weight_rgb = jnp.mean(last.weights, axis=0)[..., :1]
        parts["importance_rgb"] = resize_bilinear(weight_rgb, fused.shape[1:3])
    return Scores(fused, largest_mean(fused, config.score_window), parts)
