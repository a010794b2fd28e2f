"""EasyNet: reconstruction of colour and depth, segmentation by pixel-wise perceptrons.

R. Chen et al., "EasyNet: An Easy Network for 3D Industrial Anomaly Detection", ACM MM
2023, arXiv 2307.13925. Reference: `TaoTao9/EasyNet`. What differs is in the card
`docs/systems/easynet.md`.

Normal samples are corrupted on the device; one auto-encoder a modality restores them,
and perceptrons compare its early features with its late ones. One head reads colour
alone, another both modalities; at test time an entropy gate picks between their maps.
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
    Gather,
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
from ad3d_jax.nn.scope import Scope, scoring
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.schedules import SCHEDULES
from ad3d_jax.synthesis.pictures import name_pictures
from ad3d_jax.synthesis.rgbd import NORMAL, Corruption, corrupt
from ad3d_jax.synthesis.textures import procedural_textures
from ad3d_jax.systems.choices import check_choices
from ad3d_jax.systems.easynet_gate import best_threshold, entropy_gain
from ad3d_jax.systems.easynet_networks import (
    HEADS,
    Config,
    Networks,
    build_networks,
    forward,
    init_variables,
    modalities,
)

HYPER: Mapping[str, float] = {
    "learning_rate": 2e-4,
    "probability_normal": 0.5,
    "probability_single": 0.0,
    "beta_max": 0.8,
    "loss_rgb": 1.0,
    "loss_depth": 1.0,
    "loss_focal_rgb": 1.0,
    "loss_focal_depth": 1.0,
    "loss_focal_fusion": 1.0,
    "gate_threshold": 0.0,
}
CALIBRATION = (
    *("gain_clean", "rgb_clean", "fusion_clean"),
    *("gain_altered", "rgb_altered", "fusion_altered"),
)
MARGIN = 0.1  # of [0,1], kept free at both ends of the object's depths


class Stage(NamedTuple):
    """What one Train phase learns."""

    name: str
    heads: tuple[str, ...]
    frozen: tuple[str, ...] = ()  # modalities that were learned before


def easynet(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes.

    Raises:
        ValueError: a field of the configuration has an unknown value.
    """
    check(config)
    networks = build_networks(config)
    needs = modalities(config)
    phases = tuple(train_phase(config, networks, stage) for stage in stages(config))
    if is_gated(config):
        calibrate = Gather(
            name="calibrate",
            emit=partial(calibration_rows, config, networks),
            absorb=calibrated,
        )
        phases = (*phases, calibrate)
    return System(
        name="easynet",
        needs_fit=(*needs, "foreground"),
        needs_score=needs,
        init=partial(init, config, networks),
        phases=phases,
        score=partial(score, config, networks),
        synthesise=partial(synthesise, config),
    )


def check(config: Config) -> None:
    """Raises ValueError where a field holds a value that no variant has."""
    allowed = {
        "mode": tuple(HEADS),
        "layers": (1, 2, 3),
        "gate": ("control", "close", "open"),
        "threshold": ("calibrated", "given"),
        "depth_range": ("object", "all_pixels"),
        "depth_channels": (1, 3),
        "depth_texture": ("noise", "grey"),
        "schedule": tuple(SCHEDULES),
        "dtype": ("float32", "bfloat16"),
    }
    check_choices(config, allowed)


def is_gated(config: Config) -> bool:
    """Returns whether the mode has two maps to choose from."""
    return len(HEADS[config.mode]) == 2


def stages(config: Config) -> tuple[Stage, ...]:
    """Returns the Train phases of the mode, in order."""
    if config.mode == "fusion2":
        return Stage("rgb", ("rgb",)), Stage("depth", ("fusion",), frozen=("rgb",))
    return (Stage("train", tuple(HEADS[config.mode])),)


# --- The phases -----------------------------------------------------------------------


def init(config: Config, networks: Networks, key: Array, batch: Batch) -> State:
    """Returns fresh parameters, batch statistics, procedural textures and constants."""
    size = batch.foreground.shape[1:3]

    def build(key):
        network_key, texture_key = jax.random.split(key)
        textures = procedural_textures(
            texture_key, config.textures, config.texture_size
        )
        return init_variables(config, networks, network_key, size), textures

    variables, textures = initialise(build, key)
    none_yet = {name: jnp.zeros(0) for name in CALIBRATION}
    none_yet["is_altered"] = jnp.zeros(0, bool)
    memory = {"threshold": jnp.float32(0), "calibration": none_yet}
    return State(
        params={name: v["params"] for name, v in variables.items()},
        frozen={"textures": textures},
        extra={"batch_stats": {n: v["batch_stats"] for n, v in variables.items()}},
        memory=memory if is_gated(config) else {},
        hyper={name: jnp.float32(value) for name, value in HYPER.items()},
    )


def train_phase(config: Config, networks: Networks, stage: Stage) -> Train:
    """Returns the phase of a stage."""
    reads = {m for head in stage.heads for m in HEADS[config.mode][head]}
    branches = tuple(f"branch_{m}" for m in sorted(reads - set(stage.frozen)))
    update = Update(
        loss=partial(loss, config, networks, stage),
        optimizer=partial(optimizer, config),
        trainable=(*branches, *(f"head_{head}" for head in stage.heads)),
    )
    return Train(
        name=stage.name,
        updates=(update,),
        steps=0,
        epochs=config.epochs,
        fold=batch_norm.fold_modules,
    )


class Anomalies(NamedTuple):
    """Clean samples, what the networks see of them in training, and the truth."""

    clean: Mapping[str, Array]  # modality -> [B,H,W,C]
    altered: Mapping[str, Array]
    mask: Array  # [B,H,W,1] float32, altered pixels
    masks: Mapping[str, Array]  # head -> the mask of what it can see


def make_anomalies(
    config: Config, keys: Array, state: State, batch: Batch
) -> Anomalies:
    """Returns samples, some with a blended texture and with noise for depth (§3.2)."""
    hyper = state.hyper
    clean = modality_inputs(config, batch)
    corruption = Corruption(
        p_normal=hyper["probability_normal"],
        p_cut_out=0.0,
        p_single=hyper["probability_single"],
        beta_high=hyper["beta_max"],
    )
    made = corrupt(
        fold_each(keys, 0),
        clean.get("rgb"),
        clean.get("depth"),
        batch.foreground,
        state.frozen["textures"],
        corruption,
        config.depth_texture,
    )

    def seen(case):
        return made.mask * (case != NORMAL)[:, None, None, None]

    masks = {"rgb": seen(made.rgb_case), "depth": seen(made.depth_case)}
    return Anomalies(
        clean,
        {m: getattr(made, m) for m in clean},
        made.mask,
        {**masks, "fusion": made.mask},
    )


def synthesise(
    config: Config, keys: Array, state: State, batch: Batch
) -> Mapping[str, Array]:
    """Returns pictures of what the loss trains on, see `base.System`."""
    made = make_anomalies(config, keys, state, batch)
    return name_pictures(made.mask, made.clean, made.altered)


def loss(
    config: Config,
    networks: Networks,
    stage: Stage,
    keys: Array,
    params: Tree,
    state: State,
    batch: Batch,
    across: Across,
) -> tuple[Array, Tree, Mapping[str, Array]]:
    """Reconstruction of each modality that is learned, plus focal segmentation."""
    made = make_anomalies(config, keys, state, batch)
    scope = Scope(params, state.extra["batch_stats"], True, batch.weight, across)
    out = forward(config, networks, scope, made.altered, stage.heads, stage.frozen)
    info = {}
    for m, restored in out.reconstructions.items():
        if m not in stage.frozen:
            info[m] = reconstruction_loss(m, made.clean[m], restored)
    for head, probabilities in out.maps.items():
        focal = losses.focal_loss(probabilities, made.masks[head][..., 0], alpha=None)
        info[f"focal_{head}"] = jnp.mean(focal, axis=(1, 2))
    total = sum(state.hyper[f"loss_{name}"] * value for name, value in info.items())
    info["mask_area"] = jnp.mean(made.mask, axis=(1, 2, 3))
    return total, out.sums, info


def reconstruction_loss(modality: str, clean: Array, restored: Array) -> Array:
    """Returns [B]: squared error, for colour plus 1 - SSIM (paper §3.3 and code)."""
    if modality == "rgb":
        return jnp.mean(losses.reconstruction_map(clean, restored), axis=(1, 2))
    return jnp.mean(jnp.square(clean - restored), axis=(1, 2, 3))


def optimizer(
    config: Config, hyper: Mapping[str, Array], steps: int
) -> optax.GradientTransformation:
    """Adam under the schedule."""
    return optax.adam(SCHEDULES[config.schedule](hyper["learning_rate"], steps))


def calibration_rows(
    config: Config, networks: Networks, key: Array, state: State, batch: Batch
) -> Mapping[str, Array]:
    """Returns what the gate would see of each sample, clean and altered, [B] each."""
    always = {**state.hyper, "probability_normal": jnp.float32(0)}
    made = make_anomalies(
        config, sample_keys(key, batch), state._replace(hyper=always), batch
    )
    rows = {"is_altered": jnp.any(made.mask > 0, axis=(1, 2, 3))}
    scope = scoring(state.params, state.extra["batch_stats"])
    for name, inputs in (("clean", made.clean), ("altered", made.altered)):
        out = forward(config, networks, scope, inputs, tuple(HEADS[config.mode]))
        rows[f"gain_{name}"] = entropy_gain(out.pooled["rgb"], out.pooled["depth"])
        for head, probabilities in out.maps.items():
            score = largest_mean(probabilities[..., 1:], config.score_window)
            rows[f"{head}_{name}"] = score
    return rows


def calibrated(key: Array, state: State, rows: Tree) -> State:
    """Returns the state with the gate's threshold, and the rows that it rests on."""
    del key

    def both(name):
        return jnp.concatenate([rows[f"{name}_clean"], rows[f"{name}_altered"]])

    is_altered = jnp.asarray(rows["is_altered"])
    threshold = best_threshold(
        gain=both("gain"),
        rgb=both("rgb"),
        fusion=both("fusion"),
        anomalous=jnp.arange(2 * len(is_altered)) >= len(is_altered),
        counted=jnp.concatenate([jnp.ones_like(is_altered), is_altered]),
    )
    return state._replace(memory={"threshold": threshold, "calibration": rows})


# --- What the networks see ------------------------------------------------------------


def modality_inputs(config: Config, batch: Batch) -> dict[str, Array]:
    """Returns colour [B,H,W,3] and normalised depth [B,H,W,1], as the mode has them."""
    makers = {
        "rgb": lambda: batch.rgb,
        "depth": lambda: normalised_depth(config, batch.depth),
    }
    return {m: makers[m]() for m in modalities(config)}


def normalised_depth(config: Config, depth: Array) -> Array:
    """Returns depth of each image between its extremes, [B,H,W,1] float32 in [0,1].

    "all_pixels", as the release: from the least to the largest value of the image, the
    zeros of unmeasured and removed pixels among them. "object": the measured pixels
    from MARGIN to 1 - MARGIN, the others 0.

    Args:
        config: structure of the system.
        depth: metres [B,H,W,1] float32, 0 where unmeasured or removed.
    """
    axes = (1, 2, 3)
    on_object = config.depth_range == "object"
    measured = depth > 0 if on_object else jnp.ones_like(depth, bool)
    nearest = jnp.min(depth, axes, keepdims=True, initial=jnp.inf, where=measured)
    farthest = jnp.max(depth, axes, keepdims=True, initial=-jnp.inf, where=measured)
    span = farthest - nearest
    share = jnp.where(span > 0, (depth - nearest) / jnp.where(span > 0, span, 1), 0.0)
    if on_object:
        share = jnp.where(measured, MARGIN + (1 - 2 * MARGIN) * share, 0.0)
    return jnp.floor(share * 255) / 255 if config.depth_8bit else share


# --- Scoring --------------------------------------------------------------------------


def score(
    config: Config, networks: Networks, key: Array, state: State, batch: Batch
) -> Scores:
    """Returns the map that the gate takes and its smoothed maximum, row by row."""
    del key
    scope = scoring(state.params, state.extra["batch_stats"])
    heads = tuple(HEADS[config.mode])
    out = forward(config, networks, scope, modality_inputs(config, batch), heads)
    maps = {head: probabilities[..., 1:] for head, probabilities in out.maps.items()}
    parts = {
        f"reconstruction_{m}": x if m == "rgb" else jnp.mean(x, -1, keepdims=True)
        for m, x in out.reconstructions.items()
    }
    if is_gated(config):
        taken = takes_fusion(config, state, out.pooled)[:, None, None, None]
        chosen = jnp.where(taken, maps["fusion"], maps["rgb"])
        parts |= {f"map_{head}": map for head, map in maps.items()}
        parts["gate"] = jnp.broadcast_to(taken, chosen.shape).astype(jnp.float32)
    else:
        (chosen,) = maps.values()
    return Scores(
        map=chosen, image=largest_mean(chosen, config.score_window), parts=parts
    )


def takes_fusion(config: Config, state: State, pooled: Mapping[str, Array]) -> Array:
    """Returns for which images the fusion map is taken, [B] bool (§3.4)."""
    gain = entropy_gain(pooled["rgb"], pooled["depth"])
    if config.gate != "control":
        return jnp.full(gain.shape, config.gate == "open")
    if config.threshold == "given":
        return gain >= state.hyper["gate_threshold"]
    return gain >= state.memory["threshold"]
