"""DSR: anomalies made and undone in the discrete space of an auto-encoder, RGB alone.

V. Zavrtanik, M. Kristan, D. Skocaj, "DSR - A dual subspace re-projection network for
surface anomaly detection", ECCV 2022, arXiv 2208.01521; the authors' code is
VitjanZ/DSR_anomaly_detection. Where the two differ the default is the code, and the
card `docs/systems/dsr.md` names the difference.

After the two phases that it shares with 3DSR a third one trains a U-Net that refines
the map, which is as coarse as the codes, on anomalies made in the image itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

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
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.scope import Scope, scoring
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.schedules import step_decay
from ad3d_jax.synthesis.blend import blend
from ad3d_jax.synthesis.codes import Swap, noise_masks
from ad3d_jax.synthesis.rgbd import rotate_pair
from ad3d_jax.systems import dada, dsr_detector, dsr_networks
from ad3d_jax.systems.dsr_networks import Networks, Pass

UPSAMPLER = "upsampler"
SCHEDULES = {"step": step_decay, "cosine": dsr_detector.SCHEDULES["cosine"]}
HYPER: Mapping[str, float] = {
    **dsr_detector.HYPER,
    "rotation": 90.0,
    "probability_rotation": 0.4,
    "threshold_low": 0.5,
    "threshold_high": 0.5,
    "strength_low": 0.2,
    "probability_shuffle": 0.0,
    "loss_overlap": 0.0,
    "probability_rotation_upsampler": 0.3,
    "beta_max": 0.8,  # of the image in a blended patch
}


@dataclass(frozen=True)
class Config(dsr_networks.Config):
    """Structure of the system; a change of any field compiles anew."""

    modalities: tuple[str, ...] = ("rgb",)
    dada_hidden: int = 128
    dada_residual: int = 64
    dada_relu_skip: bool = True
    codes: int = 4096
    code_dimensions: int = 128
    decoder_width: int = 256
    segmentation_width: int = 64
    upsampler_width: int = 64  # first width of the U-Net
    patch_sides: tuple[int, ...] = ()
    two_sided: bool = False
    everywhere: bool = True
    detached: bool = True
    steps: int = 100_000
    upsampler_steps: int = 50_000
    score_window: int = 21


def dsr(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes.

    Raises:
        ValueError: a field of the configuration has an unknown value.
    """
    dsr_detector.check(config)
    if config.modalities != ("rgb",):
        raise ValueError(
            f"model.modalities: DSR has ('rgb',), found {config.modalities}; 3DSR has "
            "depth"
        )
    networks = dsr_networks.build(config)
    update = Update(
        loss=partial(upsampler_loss, config, networks),
        optimizer=partial(upsampler_optimizer, config),
        trainable=(UPSAMPLER,),
    )
    where = () if config.everywhere else ("foreground", "valid")
    return System(
        name="dsr",
        needs_fit=("rgb", *where),
        needs_score=("rgb",),
        init=partial(init, config, networks),
        phases=(
            dada.pretrain_phase(config),
            dsr_detector.detector_phase(config, networks),
            Train(UPSAMPLER, (update,), config.upsampler_steps),
        ),
        score=partial(score, config, networks),
        pretrained=(dada.PRETRAINED,),
        synthesise=partial(dsr_detector.synthesise, config, networks),
    )


def init(config: Config, networks: Networks, key: Array, batch: Batch) -> State:
    """Returns fresh parameters, codebooks and constants."""
    size = batch.rgb.shape[1:3]

    def build(key):
        params, extra = dsr_networks.init(config, networks, key, size)
        refiner_key = jax.random.fold_in(key, len(params))
        example = jnp.zeros((1, *size, 8))
        made = upsampler(config).init(refiner_key, example, train=False)
        return {**params, UPSAMPLER: made["params"]}, extra

    params, extra = initialise(build, key)
    hyper = {name: jnp.float32(value) for name, value in HYPER.items()}
    return State(params=params, extra=extra, hyper=hyper)


# --- The third phase ------------------------------------------------------------------


def upsampler(config: Config):
    """Returns the U-Net that refines the map."""
    dtype = jnp.dtype(config.dtype)
    return dsr_networks.segmenting_unet(config.upsampler_width, dtype)


def refine(config: Config, scope: Scope, out: Pass) -> Array:
    """Returns the refined probabilities [B,H,W,2] of normal and anomalous."""
    pictures = jnp.concatenate([out.specific, out.general, out.probabilities], axis=-1)
    pictures = jax.lax.stop_gradient(pictures)
    logits = scope.apply({}, UPSAMPLER, upsampler(config), pictures)
    return jax.nn.softmax(logits, axis=-1)


def paint(keys: Array, state: State, batch: Batch) -> tuple[Array, Array]:
    """Returns turned images with patches of one colour, and the patches' mask.

    [B,H,W,3] and [B,H,W,1] float32; a row depends on its own key alone.
    """
    hyper = state.hyper
    whole = jnp.ones((*batch.rgb.shape[:3], 1), bool)
    rgb, _, _ = rotate_pair(
        fold_each(keys, 0),
        batch.rgb,
        None,
        whole,
        hyper["rotation"],
        hyper["probability_rotation_upsampler"],
        fill="zero",
    )
    swap = Swap(
        p_normal=hyper["probability_normal"],
        threshold_low=hyper["threshold_low"],
        threshold_high=hyper["threshold_high"],
    )
    mask = noise_masks(fold_each(keys, 1), whole, swap, two_sided=False)
    mask = mask.astype(jnp.float32)

    def one(key, image, mask):
        *colour, position = jax.random.uniform(key, (4,))
        colour = jnp.broadcast_to(jnp.stack(colour)[None, None], image.shape)
        return blend(image, colour, mask, hyper["beta_max"] * position)

    return jax.vmap(one)(fold_each(keys, 2), rgb, mask), mask


def upsampler_loss(
    config: Config,
    networks: Networks,
    keys: Array,
    params: Tree,
    state: State,
    batch: Batch,
    across: Across,
) -> tuple[Array, Tree, Mapping[str, Array]]:
    """Focal loss of the refined map."""
    image, mask = paint(keys, state, batch)
    _, out = dsr_networks.inspect(
        config, networks, state._replace(params=params), image
    )
    scope = Scope(params, {}, True, batch.weight, across)
    refined = refine(config, scope, out)
    focal = losses.focal_loss(refined, mask[..., 0], alpha=None)
    focal = jnp.mean(focal, axis=(1, 2))
    return focal, {}, {"focal": focal, "mask_area": jnp.mean(mask, axis=(1, 2, 3))}


def upsampler_optimizer(
    config: Config, hyper: Mapping[str, Array], steps: int
) -> optax.GradientTransformation:
    """Adam; by default x0.2 at 80 % and at 90 %."""
    return optax.adam(SCHEDULES[config.schedule](hyper["learning_rate"], steps))


# --- Scoring --------------------------------------------------------------------------


def score(
    config: Config, networks: Networks, key: Array, state: State, batch: Batch
) -> Scores:
    """Returns the refined map, and the coarse one's maximum after a mean filter."""
    del key  # nothing is random at test time
    codes, out = dsr_networks.inspect(config, networks, state, batch.rgb)
    refined = refine(config, scoring(state.params, {}), out)
    coarse = out.probabilities[..., 1:]
    image = largest_mean(coarse, config.score_window)
    parts = dsr_networks.pictures(config, codes, out)
    parts["map_coarse"] = coarse
    return Scores(refined[..., 1:], image, parts)
