"""Synthetic anomalies in pairs of colour and depth: DRAEM, EasyNet, DBRN."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.ops.perlin import MAX_EXPONENT, rotated_perlin_noise
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.ops.rotate import rotate
from ad3d_jax.synthesis.anomalies import Anomalies
from ad3d_jax.synthesis.augment import augment_rows
from ad3d_jax.synthesis.blend import blend, cut_out

NORMAL, CUT_OUT, BLEND = 0, 1, 2
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Corruption(NamedTuple):
    """Chances and ranges of the synthesis; each may be a number or a 0-d array."""

    p_normal: float = 0.5  # chance of an unchanged sample
    p_cut_out: float = 0.25  # chance of a cut-out; what is left is blended
    p_single: float = 0.0  # share of the anomalous pairs in which one image stays clean
    beta_low: float = 0.0  # opacity of the original in a blend, from here
    beta_high: float = 0.8  # to here
    lowest_exponent: int = 0  # of the Perlin frequencies 2^a x 2^b
    highest_exponent: int = MAX_EXPONENT
    threshold: float = 0.5  # of the Perlin noise
    mask_rotation: float = 90.0  # largest turn of the noise, degrees


DEFAULTS = Corruption()


def corruption(hyper: Mapping[str, jax.Array]) -> Corruption:
    """Returns the chances that the numbers of a system say; cut-outs only if they do.

    Args:
        hyper: "probability_normal", "probability_single", "beta_max" and perhaps
            "probability_cut_out", "beta_min" and "threshold_noise", [] each.
    """
    return Corruption(
        p_normal=hyper["probability_normal"],
        p_cut_out=hyper.get("probability_cut_out", 0.0),
        p_single=hyper["probability_single"],
        beta_low=hyper.get("beta_min", DEFAULTS.beta_low),
        beta_high=hyper["beta_max"],
        threshold=hyper.get("threshold_noise", DEFAULTS.threshold),
    )


def corrupt(
    keys: jax.Array,
    clean: Mapping[str, jax.Array],
    foreground: jax.Array,
    textures: jax.Array,
    parameters: Corruption = DEFAULTS,
    depth_texture: str = "grey",
) -> Anomalies:
    """Returns samples with synthetic anomalies; cases are NORMAL, CUT_OUT and BLEND.

    Whether a sample is anomalous is drawn once; cut-out or blend, and the opacity, are
    drawn for each modality. Both share one Perlin mask, restricted to the foreground; a
    sample whose mask is empty is normal. With the chance `p_single` one image of an
    anomalous pair, either as likely, stays clean while the mask is kept. Colour is
    blended with a randomly augmented texture, depth with the grey of the same texture
    (DBRN) or replaced by the noise that the mask was cut from (EasyNet).

    Args:
        keys: [B] typed keys; a row depends on its own key alone.
        clean: "rgb" [B,H,W,3] float32 in [0,1], normalised "depth" [B,H,W,1], or one
            of them.
        foreground: [B,H,W,1] bool or float 0/1.
        textures: [T,h,w,3] uint8, resized to [H,W] where they differ.
        parameters: chances and ranges.
        depth_texture: "grey" or "noise".

    Raises:
        ValueError: an unknown depth_texture.

    Source: DBRN (arXiv 2311.06797), Eq. (1); EasyNet (arXiv 2307.13925), §3.2.
    """
    if depth_texture not in ("grey", "noise"):
        raise ValueError(
            f"depth_texture: expected 'grey' or 'noise', found {depth_texture!r}"
        )
    size = foreground.shape[1:3]
    keys = jax.vmap(lambda key: jax.random.split(key, 7), out_axes=1)(keys)
    mask_keys, drawn_keys, pick_keys, augment_keys, *case_keys, single_keys = keys
    case_keys = dict(zip(("rgb", "depth"), case_keys, strict=True))

    def draw_noise(key):
        exponents = parameters.lowest_exponent, parameters.highest_exponent
        return rotated_perlin_noise(key, *size, parameters.mask_rotation, exponents)

    drawn = jax.vmap(jax.random.uniform)(drawn_keys) >= parameters.p_normal
    noise = _drawn_once(jax.vmap(draw_noise), mask_keys, drawn)[..., None]
    mask = (noise > parameters.threshold) & (foreground.astype(jnp.float32) > 0.5)
    anomalous = drawn & jnp.any(mask, axis=(1, 2, 3))
    mask = (mask & anomalous[:, None, None, None]).astype(jnp.float32)
    changes = dict.fromkeys(clean, anomalous)
    if len(clean) == 2:
        single = jax.vmap(jax.random.uniform)(single_keys)
        changes["rgb"] &= single >= parameters.p_single / 2
        changes["depth"] &= single < 1 - parameters.p_single / 2
    texture = pick_textures(pick_keys, textures, size)
    altered, cases = {}, {}
    for modality, image in clean.items():
        case, beta = _draw_cases(case_keys[modality], changes[modality], parameters)
        if modality == "rgb":
            other = augment_rows(augment_keys, texture, case == BLEND)
        elif depth_texture == "noise":
            other, beta = noise, jnp.zeros_like(beta)
        else:
            other = jnp.sum(texture * LUMA[None, None, None], axis=-1, keepdims=True)
        altered[modality] = jax.vmap(_apply)(case, image, other, mask, beta)
        cases[modality] = case
    return Anomalies(clean, altered, mask, foreground, cases)


def _drawn_once(draw: Callable, keys: jax.Array, wanted: jax.Array) -> jax.Array:
    """Returns draw(keys), on a CPU zeros where no row is wanted.

    The branch also keeps XLA from drawing the noise anew for each of its uses.
    """

    def branched(keys):
        shape = jax.eval_shape(draw, keys)
        none = partial(jnp.zeros, shape.shape, shape.dtype)
        return jax.lax.cond(jnp.any(wanted), draw, lambda keys: none(), keys)

    return jax.lax.platform_dependent(keys, cpu=branched, default=draw)


def rotate_images(
    keys: jax.Array,
    images: Mapping[str, jax.Array],
    foreground: jax.Array,
    degrees: jax.Array | float,
    probability: jax.Array | float = 1.0,
    fill: str = "edge",
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Returns (images, foreground), rows turned by U(-degrees, degrees) or not.

    Each is turned with the given probability. Bilinear; what comes from outside the
    image repeats its edge, so that neither colour nor depth gets values that no scan
    has, or with the fill "zero" is 0. The foreground is cut at one half, float32.
    Shapes as in `corrupt`, which is applied afterwards.
    """

    def turn(key, images):
        turned = jax.random.uniform(jax.random.fold_in(key, 1)) < probability
        drawn = degrees * jax.random.uniform(key, (), minval=-1.0)
        angle = jnp.where(turned, drawn, 0.0)
        return jax.tree.map(lambda image: rotate(image, angle, fill), images)

    given = list(images.values()), foreground.astype(jnp.float32)
    turned, foreground = jax.vmap(turn)(keys, given)
    # By the order of the images, which is that of the networks' channels.
    turned = dict(zip(images, turned, strict=True))
    return turned, (foreground > 0.5).astype(jnp.float32)


def _draw_cases(keys: jax.Array, anomalous: jax.Array, parameters: Corruption):
    """Returns the case [B] int32 and the opacity [B] of one modality."""
    chance, position = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys).T
    is_cut_out = chance * (1.0 - parameters.p_normal) < parameters.p_cut_out
    case = jnp.where(is_cut_out, CUT_OUT, BLEND)
    span = parameters.beta_high - parameters.beta_low
    return jnp.where(anomalous, case, NORMAL), parameters.beta_low + span * position


def pick_textures(
    keys: jax.Array, textures: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Returns one random texture a key, [B,H,W,3] float32 in [0,1].

    Args:
        keys: [B] typed keys.
        textures: [T,h,w,3] uint8.
        size: (H, W) that they are resized to.
    """
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, textures.shape[0]))
    return resize_bilinear(textures[draw(keys)].astype(jnp.float32) / 255.0, size)


def _apply(case, image, texture, mask, beta):
    """Returns one image [H,W,C] after its case."""
    changed = blend(image, texture, mask, beta)
    changed = jnp.where(case == CUT_OUT, cut_out(image, mask), changed)
    return jnp.where(case == NORMAL, image, changed)
