"""The detector of DSR and 3DSR: codes restored to normality, two renderings compared.

V. Zavrtanik, M. Kristan, D. Skocaj, "DSR - A dual subspace re-projection network for
surface anomaly detection", ECCV 2022, arXiv 2208.01521, and "Cheating Depth: Enhancing
3D Surface Anomaly Detection via Depth Simulation", WACV 2024, arXiv 2311.01117. What
differs between the two is a field of the configuration.

A pretrained, frozen discrete auto-encoder gives two levels of codes. Each training step
swaps codes for others inside a mask; subspace restriction networks restore the normal
codes, an object-specific decoder renders them, the frozen general decoder renders the
swapped ones, and a U-Net segments the difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax import losses
from ad3d_jax.base import Array, Batch, State, Train, Tree, Update, fold_each
from ad3d_jax.nn.scope import training
from ad3d_jax.ops.codebook import nearest_code
from ad3d_jax.schedules import SCHEDULES, adam
from ad3d_jax.synthesis import codes as swapping
from ad3d_jax.synthesis.anomalies import Anomalies
from ad3d_jax.synthesis.rgbd import rotate_images
from ad3d_jax.systems.dsr import auto_encoder, networks
from ad3d_jax.systems.dsr.auto_encoder import LEVELS, NAME, Codes, level_health
from ad3d_jax.systems.fields import one_of
from ad3d_jax.systems.modalities import GEOMETRIES

USAGE_DECAY = 0.99  # of the count of codes in use, a step
HYPER: Mapping[str, float] = {
    **auto_encoder.HYPER,
    "learning_rate": 2e-4,
    "rotation": 15.0,  # degrees, both ways
    "probability_rotation": 1.0,
    "probability_normal": 0.5,
    "threshold_low": 0.4,  # see synthesis.codes.Swap
    "threshold_high": 0.8,
    "strength_low": 0.1,
    "strength_high": 1.0,
    "drop": 0.05,
    "probability_shuffle": 0.5,
    "probability_both": 0.5,
    "probability_lower": 0.5,
    "loss_codes": 1.0,
    "loss_image": 10.0,
    "loss_focal": 1.0,
    "loss_overlap": 1.0,  # mean absolute error of the segmentation; the paper has none
}


@dataclass(frozen=True)
class Config(auto_encoder.Config):
    """Structure of auto-encoder and detector; the defaults are 3DSR's."""

    geometry: str = one_of(*GEOMETRIES)  # see systems.modalities
    restriction_widths: tuple[int, ...] = (128, 256, 512)
    decoder_width: int = 512  # of the object-specific decoder
    segmentation_width: int = 32  # first width of the U-Net
    patch_sides: tuple[int, ...] = (1, 2, 4, 8)  # of shuffled patches; () = no shuffle
    two_sided: bool = True  # masks from the magnitude of the noise
    everywhere: bool = False  # anomalies off the part too
    turn_foreground: bool = True  # with the images; False as published
    fill: str = one_of("zero", "edge")  # what a turned image has outside
    code_distance: str = one_of("l2", "l1")  # of restored codes; paper: l1
    detached: bool = False  # the segmentation does not train what it compares
    schedule: str = one_of(*SCHEDULES)  # step: x0.1 at 80 %
    steps: int = 30_000
    score_window: int = 11  # side of the mean filter of the map, pixels
    score_sigma: float = 0.0  # of a Gaussian in its place (paper), pixels; 0 = none


class Swapped(NamedTuple):
    """Samples as the detector sees them in training."""

    image: Array  # [B,H,W,C], turned
    clean: Codes
    altered: Mapping[str, Array]  # level -> quantised features, some swapped
    mask: Array  # [B,H,W,1] float32, as coarse as the cells of the altered level


def needs_fit(config: Config) -> tuple[str, ...]:
    """Returns the fields of the fit: besides those of a score, where anomalies go."""
    where = () if config.everywhere else ("foreground", "valid")
    return *networks.seen(config).needs, *where


# --- Anomalies ------------------------------------------------------------------------


def make_anomalies(
    config: Config,
    modules: Mapping,
    keys: Array,
    params: Tree,
    state: State,
    batch: Batch,
) -> Swapped:
    """Returns turned samples and their codes, some swapped for others (3DSR, §3.3)."""
    hyper = state.hyper
    image = networks.images(config, batch)
    if config.everywhere:
        allowed = jnp.ones((*image.shape[:3], 1), bool)
    else:
        allowed = batch.foreground & batch.valid
    turned_image, turned = rotate_images(
        fold_each(keys, 0),
        {"image": image},
        allowed,
        hyper["rotation"],
        hyper["probability_rotation"],
        config.fill,
    )
    image = turned_image["image"]
    if config.turn_foreground and not config.everywhere:
        allowed = turned > 0.5
    swap = swapping.swap(hyper)
    mask = swapping.noise_masks(fold_each(keys, 1), allowed, swap, config.two_sided)
    is_lo, is_hi = swapping.draw_levels(fold_each(keys, 2), swap)
    is_lo, is_hi = (x[:, None, None, None] for x in (is_lo, is_hi))

    books = state.extra["codebooks"]
    clean = auto_encoder.forward(modules[NAME], params[NAME], books, image)
    cells_lo = swapping.pool_mask(mask, clean.q_lo.shape[1:3])
    cells_hi = swapping.pool_mask(mask, clean.q_hi.shape[1:3])

    def swapped(number, level, z, q, cells):
        codes = books[level].codes
        sides = config.patch_sides
        row_keys = fold_each(keys, number)
        return swapping.swap_codes(row_keys, codes, z, q, cells, swap, sides)

    q_lo = swapped(3, "lo", clean.z_lo, clean.q_lo, cells_lo & is_lo)
    # What the higher level holds depends on the lower one.
    enlarged = networks.from_dada(modules, params, "enlarge", q_lo)
    z_hi = networks.from_dada(modules, params, "merge", clean.encoded_hi, enlarged)
    q_hi = books["hi"].codes[nearest_code(books["hi"].codes, z_hi)]
    q_hi = jnp.where(is_hi, swapped(4, "hi", z_hi, q_hi, cells_hi), clean.q_hi)
    cells = swapping.enlarge_cells(cells_lo, mask.shape[1:3]) & is_lo
    cells |= swapping.enlarge_cells(cells_hi, mask.shape[1:3]) & ~is_lo
    made = Swapped(image, clean, {"lo": q_lo, "hi": q_hi}, cells.astype(jnp.float32))
    return jax.lax.stop_gradient(made)


def synthesiser(config: Config, modules: Mapping):
    """Returns `System.synthesise`: the general decoder's images of both codes."""

    def rendered(keys, state, batch):
        params = state.params
        made = make_anomalies(config, modules, keys, params, state, batch)
        altered = networks.render(modules, params, made.altered)
        images = (made.clean.reconstruction, altered)
        return Anomalies(*(networks.by_modality(config, x) for x in images), made.mask)

    return networks.seen(config).gallery(rendered)


# --- The phase ------------------------------------------------------------------------


def detector_phase(config: Config, modules: Mapping) -> Train:
    """Returns the phase that trains all but the auto-encoder."""

    def loss(keys, params, state, batch, across):
        """Restored codes, normal image and segmentation; the code's sum of all."""
        hyper = state.hyper
        made = make_anomalies(config, modules, keys, params, state, batch)
        scope, books = training(params, state, batch, across), state.extra["codebooks"]
        out = networks.forward(config, modules, scope, books, made.altered)

        distance = jnp.square if config.code_distance == "l2" else jnp.abs
        info = {}
        for level, clean in (("lo", made.clean.q_lo), ("hi", made.clean.q_hi)):
            error = distance(out.restored[level] - clean)
            info[f"codes_{level}"] = jnp.mean(error, axis=(1, 2, 3))
        info["image"] = jnp.mean(jnp.square(out.specific - made.image), axis=(1, 2, 3))
        focal = losses.focal_loss(out.probabilities, made.mask[..., 0], alpha=None)
        info["focal"] = jnp.mean(focal, axis=(1, 2))
        truth = jnp.concatenate([1.0 - made.mask, made.mask], axis=-1)
        info["overlap"] = jnp.mean(jnp.abs(out.probabilities - truth), axis=(1, 2, 3))
        total = hyper["loss_codes"] * (info["codes_lo"] + info["codes_hi"])
        for name in ("image", "focal", "overlap"):
            total += hyper[f"loss_{name}"] * info[name]
        info["mask_area"] = jnp.mean(made.mask, axis=(1, 2, 3))
        indices = {"lo": made.clean.index_lo, "hi": made.clean.index_hi}
        usage = {
            level: count_codes(config.codes, indices[level], batch.weight)
            for level in LEVELS
        }
        return total, {"usage": usage}, info

    def optimizer(hyper, steps):
        rate = hyper["learning_rate"]
        return adam(config.schedule, rate, steps, factor=0.1, milestones=(0.8,))

    return Train(
        name="detector",
        updates=(Update(loss, optimizer, trainable=networks.TRAINED),),
        steps=config.steps,
        fold=fold,
        health=class_health,
    )


def count_codes(size: int, index: Array, weight: Array) -> Array:
    """Returns how often each of `size` codes occurs in real rows, [size] float32."""
    real = jnp.broadcast_to((weight > 0)[:, None, None], index.shape)
    real = real.astype(jnp.float32).reshape(-1)
    return jax.ops.segment_sum(real, index.reshape(-1), size)


def fold(extra: Tree, sums: Tree) -> Tree:
    """Returns `extra` with the codes that the class uses, averaged over the steps."""
    usage = jax.tree.map(
        lambda old, new: USAGE_DECAY * old + (1.0 - USAGE_DECAY) * new,
        extra["usage"],
        sums["usage"],
    )
    return {**extra, "usage": usage}


def class_health(extra: Tree) -> dict[str, Array]:
    """Returns perplexity and number of unused codes over the class."""
    usage, books = extra["usage"], extra["codebooks"]
    used = {level: books[level]._replace(counts=usage[level]) for level in LEVELS}
    return level_health(used, "class_")
