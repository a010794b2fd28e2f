"""Losses that several systems share, per pixel or per sample."""

import jax
import jax.numpy as jnp

from ad3d_jax.ops.ssim import ssim_map


def focal_loss(
    probabilities: jax.Array,
    target: jax.Array,
    gamma: jax.Array | float = 2.0,
    alpha: tuple | None = (0.25, 0.75),
    smoothing: float = 1e-5,
) -> jax.Array:
    """Returns the two-class focal loss of every pixel, [...] float32.

    Args:
        probabilities: [...,2] float32, (normal, anomalous), adding up to 1.
        target: [...] bool or float; above 0.5 is anomalous.
        gamma: focusing exponent >= 0.
        alpha: weights (normal, anomalous); None weighs both by 1 (DRAEM).
        smoothing: DRAEM's, of the one-hot target and inside the logarithm.

    Source: Lin et al. 2017 (arXiv 1708.02002) in the form of DRAEM (arXiv 2108.07610).
    """
    anomalous = target > 0.5
    hit = jnp.where(anomalous, probabilities[..., 1], probabilities[..., 0])
    miss = jnp.where(anomalous, probabilities[..., 0], probabilities[..., 1])
    p = (1.0 - smoothing) * hit + smoothing * miss + smoothing
    # Kept above 0: rounding may push p over 1, and powers of 0 have no finite gradient.
    loss = -(jnp.maximum(1.0 - p, 1e-7) ** gamma) * jnp.log(p)
    if alpha is None:
        return loss
    return jnp.where(anomalous, alpha[1], alpha[0]) * loss


def reconstruction_map(
    target: jax.Array, reconstruction: jax.Array, similarity: jax.Array | float = 1.0
) -> jax.Array:
    """Returns squared error plus 1 - SSIM, means over channels: [B,H,W] float32.

    Args:
        target: [B,H,W,C] float32, in [0,1].
        reconstruction: [B,H,W,C] float32.
        similarity: weight of the second term, >= 0.
    """
    squared = jnp.mean(jnp.square(target - reconstruction), axis=-1)
    ssim = jnp.mean(ssim_map(target, reconstruction), axis=-1)
    return squared + similarity * (1.0 - ssim)


def set_weighted_reconstruction(
    target: jax.Array,
    reconstruction: jax.Array,
    foreground: jax.Array,
    mask: jax.Array,
    lambda_f: bool = True,
    lambda_m: bool = True,
    cap: jax.Array | float = 10.0,
    similarity: jax.Array | float = 1.0,
) -> jax.Array:
    """Returns DBRN's reconstruction loss of each sample, [B] float32.

    The pixels of an image fall into background, foreground outside the mask, and mask.
    The foreground weighs |background| / |foreground|, the mask |image| / |mask|, both
    kept within [1, cap] and counted per image; an empty set contributes nothing.

    Args:
        target: clean image [B,H,W,C] float32 in [0,1].
        reconstruction: [B,H,W,C] float32.
        foreground: [B,H,W,1] bool or float 0/1, on the object.
        mask: [B,H,W,1] bool or float 0/1, altered pixels.
        lambda_f: False weighs the foreground by 1.
        lambda_m: False weighs the mask by 1.
        cap: largest weight, >= 1.
        similarity: weight of 1 - SSIM beside the squared error.

    Source: DBRN (arXiv 2311.06797), Eq. (2).
    """
    errors = reconstruction_map(target, reconstruction, similarity)
    altered = mask[..., 0] > 0.5
    on_object = (foreground[..., 0] > 0.5) & ~altered
    background = ~(altered | on_object)

    def count(pixels):
        return jnp.sum(pixels, axis=(1, 2), dtype=jnp.float32)

    def weigh(whole, part):
        weight = jnp.clip(whole / jnp.maximum(part, 1.0), 1.0, cap)
        return weight[:, None, None]

    pixels = jnp.full((errors.shape[0],), errors[0].size, jnp.float32)
    weight_f = weigh(count(background), count(on_object)) if lambda_f else 1.0
    weight_m = weigh(pixels, count(altered)) if lambda_m else 1.0
    weights = jnp.where(altered, weight_m, jnp.where(on_object, weight_f, 1.0))
    return jnp.mean(weights * errors, axis=(1, 2))
