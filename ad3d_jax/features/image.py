"""Feature maps of pictures from frozen residual networks."""

import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Tree
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.resnet import LAYERS, RESNETS

BACKBONES = tuple(RESNETS)
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0,1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def init_backbone(key: Array, name: str, last_layer: str = "layer3") -> Tree:
    """Returns random weights of a network up to a layer, to be replaced by a file's.

    He-normal kernels, the last one of each block scaled down so that activations stay
    O(1) over the depth (see `nn.resnet.Block`), and biases 0.

    Args:
        key: random key.
        name: one of BACKBONES.
        last_layer: "conv1", "layer1", …, "layer4".

    Returns:
        {"conv1": {"kernel": [7,7,3,64], "bias": [64]}, "layer1_0": {"conv1": …}, …},
        float32, kernels HWIO, batch norms folded in.

    Raises:
        ValueError: an unknown name or layer.
    """
    network = _network(name, (last_layer,))

    def build(key):
        return network.init(key, jnp.zeros((1, 32, 32, 3)), (last_layer,))["params"]

    return initialise(build, key)


def feature_maps(
    params: Tree,
    name: str,
    rgb: Array,
    layers: tuple[str, ...] = ("layer2", "layer3"),
) -> tuple[Array, ...]:
    """Returns the maps of a frozen network's layers, [B,h,w,C] float32 each.

    Nothing behind the deepest of the layers is computed. At 224 px layer2 is 28x28 and
    layer3 14x14, of 128 and 256 channels for resnet18, else of 512 and 1024.

    Args:
        params: from `init_backbone` or `load_backbone`.
        name: one of BACKBONES.
        rgb: [B,H,W,3] float32 in [0,1]; normalised here with ImageNet's statistics.
        layers: names of layers, in the order in which the maps are returned.

    Raises:
        ValueError: an unknown name or layer, or one that `params` does not reach.
    """
    network = _network(name, layers)
    for layer in layers:
        if not any(place.startswith(layer) for place in params):
            raise ValueError(
                f"layers: {layer} is deeper than the weights, which end at"
                f" {max(place.split('_')[0] for place in params)}"
            )
    mean = np.float32(IMAGENET_MEAN).reshape(1, 1, 1, 3)
    std = np.float32(IMAGENET_STD).reshape(1, 1, 1, 3)
    return network.apply({"params": params}, (rgb - mean) / std, tuple(layers))


def _network(name: str, layers: tuple[str, ...]):
    """Returns the module of a backbone, after a check of what is asked of it."""
    if name not in RESNETS:
        raise ValueError(f"backbone: expected one of {BACKBONES}, found {name!r}")
    unknown = [layer for layer in layers if layer not in LAYERS]
    if unknown or not layers:
        raise ValueError(f"layers: expected some of {LAYERS}, found {layers!r}")
    return RESNETS[name]
