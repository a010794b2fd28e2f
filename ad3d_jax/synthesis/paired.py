"""Displaced depth with textures on the same pixels: the anomaly pairs of DAS3D."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.ops.perlin import rotated_perlin_noise
from ad3d_jax.synthesis import displacement
from ad3d_jax.synthesis.anomalies import Anomalies
from ad3d_jax.synthesis.augment import augment_rows
from ad3d_jax.synthesis.blend import blend
from ad3d_jax.synthesis.displacement import Displacement, displace
from ad3d_jax.synthesis.rgbd import pick_textures


class Pairing(NamedTuple):
    """Chances and ranges; each may be a number or a 0-d array."""

    p_normal: float = 0.5  # chance of an unchanged sample
    p_drop_depth: float = 0.3  # of an anomalous sample: its depth stays clean
    p_drop_rgb: float = 0.3  # its colour stays clean; never both
    p_united: float = 0.1  # colour is altered on the depth's mask and on another
    p_apart: float = 0.1  # colour is altered on another mask alone
    beta_low: float = 0.0  # opacity of the original colour in the mask, from here
    beta_high: float = 0.8  # to here
    displacement: Displacement = displacement.DEFAULTS


DEFAULTS = Pairing()


def pairing(hyper: Mapping[str, jax.Array], sigma: tuple[float, float]) -> Pairing:
    """Returns the chances and ranges that the numbers of a system say.

    Args:
        hyper: by the names of DAS3D's numbers, [] each.
        sigma: bounds of the spread of the displacement's kernel, pixels.
    """
    return Pairing(
        p_normal=hyper["probability_normal"],
        p_drop_depth=hyper["dropout_depth"],
        p_drop_rgb=hyper["dropout_rgb"],
        p_united=hyper["probability_united"],
        p_apart=hyper["probability_apart"],
        beta_high=hyper["beta_max"],
        displacement=Displacement(
            sigma_low=sigma[0],
            sigma_high=sigma[1],
            skew=hyper["skew"],
            amplitude_low=hyper["amplitude_low"],
            amplitude_high=hyper["amplitude_high"],
        ),
    )


def alter_pair(
    keys: jax.Array,
    clean: Mapping[str, jax.Array],
    foreground: jax.Array,
    textures: jax.Array,
    parameters: Pairing = DEFAULTS,
    reach: int = displacement.REACH,
) -> Anomalies:
    """Returns pairs of which some have correlated anomalies, and where these are.

    Depth is displaced; colour is blended with a randomly augmented texture where depth
    was displaced, now and then also, or only, in a Perlin mask of its own. Of some
    anomalous samples one modality stays clean (augmentation dropout), and the mask then
    shrinks to what is altered.

    Args:
        keys: [B] typed keys; a row depends on its own key alone.
        clean: "rgb" [B,H,W,3] and normalised "depth" [B,H,W,1], float32 in [0,1].
        foreground: [B,H,W,1] bool or float 0/1.
        textures: [T,h,w,3] uint8, resized to [H,W] where they differ.
        parameters: chances and ranges; p_drop_depth + p_drop_rgb <= 1.
        reach: of the displacement's kernel, pixels.

    Source: DAS3D (arXiv 2410.09821) has the masks conditioned on each other and the
    dropout; the chances are ours.
    """
    rgb, depth = clean["rgb"], clean["depth"]
    size = foreground.shape[1:3]
    foreground = foreground.astype(jnp.float32) > 0.5
    keys = jax.vmap(lambda key: jax.random.split(key, 8), out_axes=1)(keys)
    depth_keys, case_keys, drop_keys, shape_keys, *colour_keys = keys
    mask_keys, pick_keys, augment_keys, beta_keys = colour_keys

    anomalous = _draw(case_keys) >= parameters.p_normal
    drop = _draw(drop_keys)
    keep_depth = anomalous & (drop >= parameters.p_drop_depth)
    keep_rgb = anomalous & (drop < 1.0 - parameters.p_drop_rgb)

    displaced = jax.vmap(lambda *row: displace(*row, parameters.displacement, reach))(
        depth_keys, depth, foreground
    )
    other = _own_masks(mask_keys, foreground, parameters.displacement)
    shape = _draw(shape_keys)
    apart = shape < parameters.p_apart
    with_other = shape < parameters.p_apart + parameters.p_united
    rgb_mask = displaced.mask & _rows(~apart) | other & _rows(with_other)

    depth_mask = displaced.mask & _rows(keep_depth)
    rgb_mask = rgb_mask & _rows(keep_rgb)
    rgb_altered = jnp.any(rgb_mask, axis=(1, 2, 3))
    texture = pick_textures(pick_keys, textures, size)
    texture = augment_rows(augment_keys, texture, rgb_altered)
    low, high = parameters.beta_low, parameters.beta_high
    beta = low + (high - low) * _draw(beta_keys)
    altered = {
        "rgb": jax.vmap(blend)(rgb, texture, rgb_mask.astype(jnp.float32), beta),
        "depth": jnp.where(depth_mask, displaced.depth, depth),
    }
    cases = {"rgb": rgb_altered, "depth": jnp.any(depth_mask, axis=(1, 2, 3))}
    mask = (rgb_mask | depth_mask).astype(jnp.float32)
    return Anomalies(clean, altered, mask, foreground, cases)


def _own_masks(keys, foreground, parameters: Displacement) -> jax.Array:
    """Returns Perlin masks [B,H,W,1] that have nothing to do with the depth's."""
    exponents = parameters.lowest_exponent, parameters.highest_exponent

    def one(key, foreground):
        noise = rotated_perlin_noise(
            key, *foreground.shape[:2], parameters.mask_rotation, exponents
        )
        return (noise[..., None] > parameters.threshold) & foreground

    return jax.vmap(one)(keys, foreground)


def _draw(keys: jax.Array) -> jax.Array:
    """Returns one uniform number in [0,1) for each key."""
    return jax.vmap(jax.random.uniform)(keys)


def _rows(x: jax.Array) -> jax.Array:
    """Returns [B] as [B,1,1,1]."""
    return x[:, None, None, None]
