"""Putting an anomaly into an image."""

import jax


def blend(
    image: jax.Array, texture: jax.Array, mask: jax.Array, beta: jax.Array | float
) -> jax.Array:
    """Returns (1-M) I + (1-beta) M A + beta M I, [H,W,C] float32.

    Args:
        image: I [H,W,C] float32.
        texture: A [H,W,C] float32.
        mask: M [H,W,1] float32 in [0,1].
        beta: opacity of the image inside the mask, in [0,1].

    Source: DRAEM (arXiv 2108.07610), Eq. (2).
    """
    return image + mask * ((1.0 - beta) * (texture - image))


def cut_out(image: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the image [H,W,C] with the pixels of the mask [H,W,1] set to 0."""
    return image * (1.0 - mask)
