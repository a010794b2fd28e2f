"""DBRN: dual-branch reconstruction of RGB and depth, and one discriminator of both.

C. Bi, Y. Li, H. Luo, "Dual-Branch Reconstruction Network for Industrial Anomaly
Detection with RGB-D Data", arXiv 2311.06797. No official code is known; where the paper
is silent the card `docs/systems/dbrn.md` names our choice.

Each training step corrupts normal samples on the device, restores them with one network
a modality at several scales, and segments what was restored: the discriminator compares
input and reconstruction of both modalities after an importance scoring module has
weighted them (`systems.dbrn_networks`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from ad3d_jax import losses
from ad3d_jax.base import Scores, System, Train, Update, fold_each, sample_keys
from ad3d_jax.nn.batch_norm import fold_modules
from ad3d_jax.nn.scope import scoring, training
from ad3d_jax.ops.blur import largest_mean
from ad3d_jax.ops.perlin import MAX_EXPONENT
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.schedules import adam
from ad3d_jax.synthesis.rgbd import corrupt, corruption, rotate_images
from ad3d_jax.systems.dbrn_networks import build_networks, forward, input_shapes
from ad3d_jax.systems.fields import SHARE, Range, one_of, within
from ad3d_jax.systems.modalities import Modalities, map_size
from ad3d_jax.systems.textured import TEXTURES, Textured, init_state

SCALE_NAMES = ("full", "quarter", "eighth")
HYPER: Mapping[str, float] = {
    "learning_rate_reconstruction": 1e-4,
    "learning_rate_discriminator": 1e-4,
    "learning_rate_importance": 1e-3,
    "probability_normal": 0.5,
    "probability_cut_out": 0.25,
    "probability_single": 0.0,
    "beta_min": 0.0,
    "beta_max": 0.8,
    "threshold_noise": 0.5,
    "probability_identical_rgb": 0.25,
    "probability_identical_depth": 0.25,
    "focal_alpha": 0.75,
    "focal_gamma": 2.0,
    "lambda_max": 10.0,
    "loss_similarity": 1.0,
    "loss_rgb": 1.0,
    "loss_depth": 1.0,
    "loss_focal": 1.0,
}
# What a network learns with; the paper uses three learning rates, the third one for the
# convolutions of importance scoring.
RATES = {
    "rgb": "reconstruction",
    "depth": "reconstruction",
    "pair_embed": "discriminator",
    "discriminator": "discriminator",
}


@dataclass(frozen=True)
class Config(Textured):
    """Structure of the system; a change of any field compiles anew.

    The defaults are the multi-scale RGB-D system; sheet §10 defines the other rows.
    """

    modalities: tuple[str, ...] = one_of(("rgb", "depth"), ("rgb",), ("depth",))
    reconstruction: str = one_of("swin", "res_unet")
    discriminator: str = one_of("unet", "swin")
    fusion: str = one_of("importance", "early", "hadamard", "concat")
    # Of importance scoring: two scores a pixel, or two of each channel.
    importance: str = one_of("pixel", "channel")
    scales: int = one_of(3, 1)  # heads at 1/1, 1/4, 1/8; 1 is the single-scale row
    embed: int = 96  # width of the Swin-Unets
    window: int = 8  # attention window in tokens
    drop_path: float = within(SHARE, 0.1)  # stochastic depth, training only
    reconstruction_width: int = 64  # first width of res_unet
    reconstruction_levels: int = 4  # times that res_unet halves the image
    residual_unit: str = one_of("conv_first", "norm_first")  # of res_unet
    discriminator_width: int = 64  # width of pair embedding and U-Net
    discriminator_levels: int = 5  # times that the U-Net halves the image
    pair_stride: int = 1  # stride of the pair embedding
    # Shallowest first; at test too.
    skip_dropout: tuple[float, ...] = within(SHARE, (0.6, 0.4, 0.2))
    lambda_f: bool = True  # weight of the foreground in Eq. (2)
    lambda_m: bool = True  # weight of the mask in Eq. (2)
    stop_gradient: bool = False  # of the discriminator, before the reconstruction
    # Lowest and highest exponent of 2 in the frequencies of the noise.
    noise_exponents: tuple[int, int] = within(
        Range(0, MAX_EXPONENT, whole=True), (0, MAX_EXPONENT)
    )
    rotation: float = 0.0  # degrees of random rotation of a training pair
    steps: int = 23_000
    passes: int = 1  # stochastic passes that are averaged at test time
    remat: bool = False  # recompute Swin blocks in the backward pass

    def __post_init__(self):
        super().__post_init__()
        if self.fusion == "early" and len(self.modalities) == 1:
            raise ValueError("model.fusion=early joins two modalities, found one")
        if len(self.noise_exponents) != 2 or sorted(self.noise_exponents) != list(
            self.noise_exponents
        ):
            raise ValueError(
                "model.noise_exponents: expected the lowest and the highest, found "
                f"{self.noise_exponents}"
            )
        levels = self.reconstruction_levels
        if self.reconstruction == "res_unet" and self.scales == 3 and levels < 4:
            raise ValueError(
                "model.reconstruction_levels: 4 or more have a head at 1/8, as "
                f"model.scales=3 asks for; found {levels}"
            )


def dbrn(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes."""
    networks = build_networks(config)
    seen = Modalities(config.modalities, "height")
    scored = "fusion" in networks and config.fusion == "importance"
    rates = {**RATES, "fusion": "importance" if scored else "discriminator"}

    def init(key, batch):
        shapes = input_shapes(config, networks, map_size(batch))
        keys = jax.random.split(key, len(networks) + 1)
        return init_state(config, networks, shapes, HYPER, keys)

    def make_anomalies(keys, state, batch):
        """Returns samples, some with a cut-out or a blended texture, Eq. (1)."""
        clean, foreground = seen.inputs(batch), batch.foreground.astype(jnp.float32)
        if config.rotation:
            turn_keys = fold_each(keys, 3)
            clean, foreground = rotate_images(
                turn_keys, clean, foreground, config.rotation
            )
        lowest, highest = config.noise_exponents
        chances = corruption(state.hyper)._replace(
            lowest_exponent=lowest, highest_exponent=highest
        )
        textures = state.frozen["textures"]
        return corrupt(fold_each(keys, 0), clean, foreground, textures, chances)

    def loss(keys, params, state, batch, across):
        """Reconstruction of both modalities plus focal segmentation, Eq. (5)."""
        hyper, made = state.hyper, make_anomalies(keys, state, batch)
        identical = None
        if scored:
            draw = jax.vmap(jax.random.uniform)(fold_each(keys, 1))
            rgb, depth = (hyper[f"probability_identical_{m}"] for m in ("rgb", "depth"))
            second = (draw >= rgb) & (draw < rgb + depth)
            identical = {"rgb": draw < rgb, "depth": second}
        scope = training(params, state, batch, across)
        dropout = fold_each(keys, 2)
        out = forward(config, networks, scope, made.altered, dropout, identical)

        info, total = {}, jnp.zeros(batch.weight.shape)
        for modality, scales in out.reconstructions.items():
            terms = [
                losses.set_weighted_reconstruction(
                    made.clean[modality],
                    reconstruction,
                    made.foreground,
                    made.mask,
                    lambda_f=config.lambda_f,
                    lambda_m=config.lambda_m,
                    cap=hyper["lambda_max"],
                    similarity=hyper["loss_similarity"],
                )
                for reconstruction in scales
            ]
            term = sum(terms) / len(terms)
            info[f"reconstruction_{modality}"] = term
            total = total + hyper[f"loss_{modality}"] * term
        alpha = (1.0 - hyper["focal_alpha"], hyper["focal_alpha"])
        focal = losses.focal_loss(
            out.maps, made.mask[None, ..., 0], hyper["focal_gamma"], alpha
        )
        info["focal"] = jnp.mean(focal, axis=(0, 2, 3))
        total = total + hyper["loss_focal"] * info["focal"]
        return total, scope.sums, {**info, "mask_area": made.area()}

    def optimizer(hyper, steps):
        """Adam with three learning rates under one schedule (paper §4.1; sheet §5)."""
        groups = {name: rates[name] for name in networks}
        return optax.partition(
            {
                group: adam(config.schedule, hyper[f"learning_rate_{group}"], steps)
                for group in set(groups.values())
            },
            groups,
        )

    def score(key, state, batch):
        """Returns the mean map over scales and its smoothed maximum, row by row."""
        inputs, scope = seen.inputs(batch), scoring(state)
        keys = sample_keys(key, batch)
        passes = [
            forward(config, networks, scope, inputs, fold_each(keys, number))
            for number in range(config.passes)
        ]
        per_scale = sum(p.maps[..., 1:] for p in passes) / len(passes)
        fused, parts = jnp.mean(per_scale, axis=0), {}
        for number, name in enumerate(SCALE_NAMES[: config.scales]):
            if config.scales > 1:
                parts[f"map_{name}"] = per_scale[number]
            images = {m: x[number] for m, x in passes[-1].reconstructions.items()}
            shown = seen.captioned("reconstruction", images)
            parts |= {f"{caption}_{name}": image for caption, image in shown.items()}
        weights = passes[-1].weights
        if weights is not None:
            of_rgb = jnp.mean(weights, axis=0)[..., :1]
            parts["importance_rgb"] = resize_bilinear(of_rgb, fused.shape[1:3])
        return Scores(fused, largest_mean(fused, config.score_window), parts)

    updates = (Update(loss, optimizer),)
    return System(
        name="dbrn",
        needs_fit=(*seen.needs, "foreground"),
        needs_score=seen.needs,
        init=init,
        phases=(Train("train", updates, config.steps, fold=fold_modules),),
        score=score,
        pretrained=(TEXTURES,),
        synthesise=seen.gallery(make_anomalies),
    )
