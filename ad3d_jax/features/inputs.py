"""What frozen networks expect of an image: the mean and deviation of each channel."""

from typing import NamedTuple

import numpy as np

from ad3d_jax.base import Array


class Inputs(NamedTuple):
    """Constants of RGB in [0,1] that weights were trained with."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Inputs((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Inputs((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # of timm's augreg sets


def normalised(rgb: Array, inputs: Inputs) -> Array:
    """Returns (rgb - mean) / std of images [B,H,W,3] float32."""
    mean, std = _pixels(inputs)
    return (rgb - mean) / std


def unnormalised(x: Array, inputs: Inputs) -> Array:
    """Returns the images [B,H,W,3], or [B,H,W,1], that `normalised` makes x from."""
    mean, std = _pixels(inputs)
    return x * std + mean


def _pixels(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.float32(part).reshape(1, 1, 1, 3) for part in inputs)
