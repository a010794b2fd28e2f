"""EasyNet: reconstruction of colour and depth, segmentation by pixel-wise perceptrons.

R. Chen et al., "EasyNet: An Easy Network for 3D Industrial Anomaly Detection", ACM MM
2023, arXiv 2307.13925. Reference: `TaoTao9/EasyNet`. What differs is in the card
`docs/systems/easynet.md`.

Normal samples are corrupted on the device; one auto-encoder a modality restores them,
and perceptrons compare its early features with its late ones. One head reads colour
alone, another both modalities; at test time an entropy gate picks between their maps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax import losses
from ad3d_jax.base import (
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
from ad3d_jax.nn.batch_norm import fold_modules
from ad3d_jax.nn.scope import scoring, training
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.ops.entropy import best_threshold, entropy_gain
from ad3d_jax.schedules import adam
from ad3d_jax.synthesis.anomalies import Anomalies
from ad3d_jax.synthesis.rgbd import NORMAL, corrupt, corruption
from ad3d_jax.systems import easynet_networks as nets
from ad3d_jax.systems.easynet_networks import HEADS, forward
from ad3d_jax.systems.fields import at_least, one_of
from ad3d_jax.systems.modalities import Modalities, map_size
from ad3d_jax.systems.textured import TEXTURES, Textured, init_state

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


@dataclass(frozen=True)
class Config(Textured):
    """Structure of the system; a change of any field compiles anew."""

    mode: str = one_of(*HEADS, default="fusion1")  # fusion1: jointly, fusion2: in turn
    layers: int = one_of(1, 2, 3, default=2)  # levels that are compared
    width: int = 128  # first width of the auto-encoders
    halvings: int = 4  # of the image, in the auto-encoders
    mlp_width: int = 512  # of a level's perceptron; the heads go with it
    gate: str = one_of("control", "close", "open")  # by entropy, colour map, fusion
    threshold: str = one_of("calibrated", "given")  # of the gate; hyper.gate_threshold
    depth_range: str = one_of("object", "all_pixels")  # what is 0..1; release: all
    depth_8bit: bool = False  # release: depth in 256 levels
    depth_channels: int = one_of(1, 3, default=3)  # identical ones, as in the release
    depth_texture: str = one_of("noise", "grey")  # of anomalies; grey = blended
    bgr: bool = False  # release: networks see blue first
    epochs: int = at_least(1, 770)  # of each phase


class Stage(NamedTuple):
    """What one Train phase learns."""

    name: str
    heads: tuple[str, ...]
    frozen: tuple[str, ...] = ()  # modalities that were learned before


def easynet(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes."""
    networks, heads = nets.build_networks(config), tuple(HEADS[config.mode])
    seen = Modalities(nets.modalities(config.mode), "depth")
    gated = len(heads) == 2  # two maps to choose from

    def init(key, batch):
        network_key, texture_key = jax.random.split(key)
        keys = jax.random.split(network_key, len(networks))
        keys = jnp.concatenate([keys, texture_key[None]])
        shapes = nets.input_shapes(config, map_size(batch))
        state = init_state(config, networks, shapes, HYPER, keys)
        if not gated:
            return state
        none_yet = {name: jnp.zeros(0) for name in CALIBRATION}
        none_yet["is_altered"] = jnp.zeros(0, bool)
        memory = {"threshold": jnp.float32(0), "calibration": none_yet}
        return state._replace(memory=memory)

    def train_phase(stage):
        reads = {m for head in stage.heads for m in HEADS[config.mode][head]}
        branches = [f"branch_{m}" for m in sorted(reads - set(stage.frozen))]

        def loss(keys, params, state, batch, across):
            """Reconstruction of each modality that is learned, plus focal loss."""
            made = make_anomalies(config, keys, state, batch)
            scope = training(params, state, batch, across)
            seen, (_, read, frozen) = made.altered, stage
            out = forward(config, networks, scope, seen, read, frozen)
            info = {
                m: reconstruction_loss(m, made.clean[m], restored)
                for m, restored in out.reconstructions.items()
                if m not in stage.frozen
            }
            for head, probabilities in out.maps.items():
                truth = visible_mask(made, head)[..., 0]
                focal = losses.focal_loss(probabilities, truth, alpha=None)
                info[f"focal_{head}"] = jnp.mean(focal, axis=(1, 2))
            total = sum(state.hyper[f"loss_{name}"] * x for name, x in info.items())
            return total, scope.sums, {**info, "mask_area": made.area()}

        def optimizer(hyper, steps):
            return adam(config.schedule, hyper["learning_rate"], steps)

        trainable = (*branches, *(f"head_{head}" for head in stage.heads))
        updates = (Update(loss, optimizer, trainable),)
        return Train(stage.name, updates, 0, epochs=config.epochs, fold=fold_modules)

    def calibration_rows(key, state, batch):
        """Returns what the gate would see of each sample, clean and altered, [B]."""
        always = {**state.hyper, "probability_normal": jnp.float32(0)}
        keys, always = sample_keys(key, batch), state._replace(hyper=always)
        made = make_anomalies(config, keys, always, batch)
        rows = {"is_altered": jnp.any(made.mask > 0, axis=(1, 2, 3))}
        for name, inputs in (("clean", made.clean), ("altered", made.altered)):
            out = forward(config, networks, scoring(state), inputs, heads)
            rows[f"gain_{name}"] = entropy_gain(out.pooled["rgb"], out.pooled["depth"])
            for head, probabilities in out.maps.items():
                score = largest_mean(probabilities[..., 1:], config.score_window)
                rows[f"{head}_{name}"] = score
        return rows

    def score(key, state, batch):
        """Returns the map that the gate takes and its smoothed maximum, row by row."""
        inputs = modality_inputs(config, batch)
        out = forward(config, networks, scoring(state), inputs, heads)
        maps = {head: x[..., 1:] for head, x in out.maps.items()}
        images = {
            m: x if m == "rgb" else jnp.mean(x, -1, keepdims=True)
            for m, x in out.reconstructions.items()
        }
        parts = seen.captioned("reconstruction", images)
        if gated:
            taken = takes_fusion(config, state, out.pooled)[:, None, None, None]
            chosen = jnp.where(taken, maps["fusion"], maps["rgb"])
            parts |= {f"map_{head}": map for head, map in maps.items()}
            parts["gate"] = jnp.broadcast_to(taken, chosen.shape).astype(jnp.float32)
        else:
            (chosen,) = maps.values()
        return Scores(chosen, largest_mean(chosen, config.score_window), parts)

    phases = [train_phase(stage) for stage in stages(config)]
    if gated:
        phases.append(Gather("calibrate", calibration_rows, calibrated))
    return System(
        name="easynet",
        needs_fit=(*seen.names, "foreground"),
        needs_score=seen.names,
        init=init,
        phases=tuple(phases),
        score=score,
        pretrained=(TEXTURES,),
        synthesise=seen.gallery(partial(make_anomalies, config)),
    )


def stages(config: Config) -> tuple[Stage, ...]:
    """Returns the Train phases of the mode, in order."""
    if config.mode == "fusion2":
        return Stage("rgb", ("rgb",)), Stage("depth", ("fusion",), frozen=("rgb",))
    return (Stage("train", tuple(HEADS[config.mode])),)


# --- The phases -----------------------------------------------------------------------


def make_anomalies(
    config: Config, keys: Array, state: State, batch: Batch
) -> Anomalies:
    """Returns samples, some with a blended texture and with noise for depth (§3.2)."""
    return corrupt(
        fold_each(keys, 0),
        modality_inputs(config, batch),
        batch.foreground,
        state.frozen["textures"],
        corruption(state.hyper),
        config.depth_texture,
    )


def visible_mask(made: Anomalies, head: str) -> Array:
    """Returns the mask [B,H,W,1] of what a head can see: its image may be spared."""
    if head == "fusion":
        return made.mask
    seen = (made.cases[head] != NORMAL)[:, None, None, None]
    return made.mask * seen.astype(jnp.float32)


def reconstruction_loss(modality: str, clean: Array, restored: Array) -> Array:
    """Returns [B]: squared error, for colour plus 1 - SSIM (paper §3.3 and code)."""
    if modality == "rgb":
        return jnp.mean(losses.reconstruction_map(clean, restored), axis=(1, 2))
    return jnp.mean(jnp.square(clean - restored), axis=(1, 2, 3))


def calibrated(key: Array, state: State, rows: Tree) -> State:
    """Returns the state with the gate's threshold, and the rows that it rests on."""

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
    return {m: makers[m]() for m in nets.modalities(config.mode)}


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


def takes_fusion(config: Config, state: State, pooled: Mapping[str, Array]) -> Array:
    """Returns for which images the fusion map is taken, [B] bool (§3.4)."""
    gain = entropy_gain(pooled["rgb"], pooled["depth"])
    if config.gate != "control":
        return jnp.full(gain.shape, config.gate == "open")
    if config.threshold == "given":
        return gain >= state.hyper["gate_threshold"]
    return gain >= state.memory["threshold"]
