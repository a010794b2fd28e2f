"""DSR: anomalies made and undone in the discrete space of an auto-encoder, RGB alone.

V. Zavrtanik, M. Kristan, D. Skocaj, "DSR - A dual subspace re-projection network for
surface anomaly detection", ECCV 2022, arXiv 2208.01521; the authors' code is
VitjanZ/DSR_anomaly_detection. Where the two differ the default is the code, and the
card `docs/systems/dsr.md` names the difference.

After the two phases that it shares with 3DSR a third one trains a U-Net that refines
the map, which is as coarse as the codes, on anomalies made in the image itself; it is
left out where the coarse map is wanted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ad3d_jax import losses
from ad3d_jax.base import Array, Batch, Scores, State, System, Train, Update, fold_each
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.scope import scoring, training
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.schedules import adam
from ad3d_jax.synthesis.blend import blend
from ad3d_jax.synthesis.codes import noise_masks, swap
from ad3d_jax.synthesis.rgbd import rotate_images
from ad3d_jax.systems.dsr import auto_encoder, detector, networks
from ad3d_jax.systems.fields import numbers, one_of
from ad3d_jax.systems.modalities import map_size

UPSAMPLER = "upsampler"
HYPER: Mapping[str, float] = {
    **detector.HYPER,
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
class Config(detector.Config):
    """Structure of the system; a change of any field compiles anew."""

    modalities: tuple[str, ...] = ("rgb",)
    dada_hidden: int = 128
    dada_residual: int = 64
    dada_relu_skip: bool = True
    codes: int = 4096
    code_dimensions: int = 128
    decoder_width: int = 256
    segmentation_width: int = 64
    map: str = one_of("refined", "coarse")  # the coarse one needs no third phase
    upsampler_width: int = 64  # first width of the U-Net
    patch_sides: tuple[int, ...] = ()
    two_sided: bool = False
    everywhere: bool = True
    detached: bool = True
    steps: int = 100_000
    upsampler_steps: int = 50_000
    score_window: int = 21

    def __post_init__(self):
        super().__post_init__()
        if self.modalities != ("rgb",):
            raise ValueError(
                f"model.modalities: DSR has ('rgb',), found {self.modalities}; "
                "3DSR has depth"
            )


def dsr(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes."""
    dtype = jnp.dtype(config.dtype)
    modules = networks.build(config)
    upsampler = networks.segmenting_unet(config.upsampler_width, dtype)
    refines = config.map == "refined"

    def init(key, batch):
        size = map_size(batch)

        def build(key):
            params, extra = networks.init(config, modules, key, size)
            if not refines:
                return params, extra
            refiner_key = jax.random.fold_in(key, len(params))
            made = upsampler.init(refiner_key, jnp.zeros((1, *size, 8)))
            return {**params, UPSAMPLER: made["params"]}, extra

        params, extra = initialise(build, key)
        return State(params=params, extra=extra, hyper=numbers(HYPER))

    def refine(scope, out):
        """Returns the refined probabilities [B,H,W,2] of normal and anomalous."""
        seen = jnp.concatenate([out.specific, out.general, out.probabilities], axis=-1)
        logits = scope.apply(UPSAMPLER, upsampler, jax.lax.stop_gradient(seen))
        return jax.nn.softmax(logits, axis=-1)

    def loss(keys, params, state, batch, across):
        """Focal loss of the refined map."""
        image, mask = paint(keys, state, batch)
        new = state._replace(params=params)
        _, out = networks.inspect(config, modules, new, image)
        refined = refine(training(params, state, batch, across), out)
        focal = losses.focal_loss(refined, mask[..., 0], alpha=None)
        info = {
            "focal": jnp.mean(focal, axis=(1, 2)),
            "mask_area": jnp.mean(mask, axis=(1, 2, 3)),
        }
        return info["focal"], {}, info

    def optimizer(hyper, steps):
        return adam(config.schedule, hyper["learning_rate"], steps)

    def score(key, state, batch):
        """Returns the map, and the coarse one's maximum after a mean filter."""
        codes, out = networks.inspect(config, modules, state, batch.rgb)
        parts, coarse = networks.shown(config, codes, out), out.probabilities[..., 1:]
        image = largest_mean(coarse, config.score_window)
        if not refines:
            return Scores(coarse, image, parts)
        refined = refine(scoring(state), out)[..., 1:]
        return Scores(refined, image, {**parts, "map_coarse": coarse})

    update = Update(loss, optimizer, trainable=(UPSAMPLER,))
    refining = Train(UPSAMPLER, (update,), config.upsampler_steps)
    return System(
        name="dsr",
        needs_fit=detector.needs_fit(config),
        needs_score=("rgb",),
        init=init,
        phases=(
            auto_encoder.pretrain_phase(config),
            detector.detector_phase(config, modules),
            *((refining,) if refines else ()),
        ),
        score=score,
        pretrained=(auto_encoder.PRETRAINED,),
        synthesise=detector.synthesiser(config, modules),
    )


def paint(keys: Array, state: State, batch: Batch) -> tuple[Array, Array]:
    """Returns turned images with patches of one colour, and the patches' mask.

    [B,H,W,3] and [B,H,W,1] float32; a row depends on its own key alone.
    """
    hyper = state.hyper
    whole = jnp.ones((*batch.rgb.shape[:3], 1), bool)
    turned, _ = rotate_images(
        fold_each(keys, 0),
        {"rgb": batch.rgb},
        whole,
        hyper["rotation"],
        hyper["probability_rotation_upsampler"],
        fill="zero",
    )
    mask = noise_masks(fold_each(keys, 1), whole, swap(hyper), two_sided=False)
    mask = mask.astype(jnp.float32)

    def one(key, image, mask):
        *colour, position = jax.random.uniform(key, (4,))
        colour = jnp.broadcast_to(jnp.stack(colour)[None, None], image.shape)
        return blend(image, colour, mask, hyper["beta_max"] * position)

    return jax.vmap(one)(fold_each(keys, 2), turned["rgb"], mask), mask
